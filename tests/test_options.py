"""Options come from the fields of settings: name, type, choices, range, help, default, layers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from mrbridge.inference.settings import TranslateSettings
from mrbridge.options import verb
from mrbridge.settings import Option, Settings


class Part(Settings):
    size: int = Field(3, ge=1, description="Size of the part.")


class Example(Settings):
    kind: Literal["round", "square"] = Field("round", description="Kind of shape.")
    part: Part = Part()
    names: Annotated[tuple[str, ...], Option(("--name",), "NAME", "all")] = Field(
        (), description="Names."
    )
    path: Path | None = Field(None, description="A file.")
    quick: bool = Field(False, description="Be quick.")
    hidden: float = 0.5


Invoke = Callable[..., Any]
got: list[Any] = []


@verb(f"{__name__}.Example", "kind", "part.size", "names", "path", "quick")
def show(target: Annotated[str, typer.Argument()], settings: Example) -> None:
    """Show the settings."""
    got.append((target, settings))


@pytest.fixture
def invoke() -> Invoke:
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    show.complete()
    app.command()(show)
    got.clear()
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_help_shows_fields(invoke: Invoke) -> None:
    shown = " ".join(invoke("--help").output.split())
    for text in (
        "Show the settings.",
        "--kind <round|square> Kind of shape. [default: round]",
        "--size <int range> Size of the part. [default: 3] [x>=1]",
        "--name NAME Names. [default: all]",
        "--path <path> A file.",
        "--quick Be quick.",
        "--set KEY=VALUE",
        "--json",
    ):
        assert text in shown
    assert "hidden" not in shown
    assert "--no-quick" not in shown


def test_without_options_the_defaults_apply(invoke: Invoke) -> None:
    assert invoke("here").exit_code == 0
    assert got == [("here", Example())]


def test_options_go_over_the_file_and_assignments_over_options(
    invoke: Invoke, tmp_path: Path
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("kind: square\npart: {size: 7}\nhidden: 0.25\nnames: [x]")
    words = ("here", "--config", path, "--size", "5", "--name", "a", "--name", "b", "--quick")
    assert invoke(*words, "--set", "hidden=0.75").exit_code == 0
    expected = {"kind": "square", "part": {"size": 5}, "names": ("a", "b"), "quick": True}
    assert got == [("here", Example(**expected, hidden=0.75))]


@pytest.mark.parametrize("words", [("--kind", "flat"), ("--size", "0"), ("--set", "knid=round")])
def test_what_a_field_refuses_is_refused(invoke: Invoke, words: tuple[str, ...]) -> None:
    assert invoke("here", *words).exit_code != 0
    assert got == []


def test_every_setting_of_translate_is_described() -> None:
    for name, field in TranslateSettings.model_fields.items():
        assert field.description, name


def test_settings_are_imported_without_slow_libraries() -> None:
    slow = {"torch", "numpy", "scipy", "nibabel"}
    code = (
        "import sys, mrbridge.inference.settings, mrbridge.evaluation.settings\n"
        f"assert not {slow} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
