"""Options come from the fields of settings: name, type, choices, range, help, default, layers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import pytest
from pydantic import Field
from typer.testing import CliRunner

import mrbridge
from mrbridge import training_verbs, verbs
from mrbridge.bids_app import bids_app
from mrbridge.errors import SettingsError
from mrbridge.options import new_program, option_names, verb
from mrbridge.settings import Option, Settings, VerbSettings, fields_of
from mrbridge.verb_settings import VERBS, schema


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
    hidden: float = Field(0.5, description="How well it is hidden.")


class Show(VerbSettings):
    stage = f"{__name__}:Example"
    setting_keys = ("kind", "part.size", "names", "path", "quick")

    target: Annotated[str, Option(metavar="TARGET", argument=True)] = Field(description="What.")
    count: int = Field(2, ge=1, description="How many.")


Invoke = Callable[..., Any]
got: list[Any] = []


@verb(f"{__name__}:Show", "show here")
def show(options: Show, settings: Example) -> None:
    """Show the settings."""
    got.append((options.target, settings))


@pytest.fixture
def invoke() -> Invoke:
    show.complete()
    app = new_program("", [show])
    got.clear()
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_help_shows_fields(invoke: Invoke) -> None:
    shown = " ".join(invoke("--help").output.split())
    for text in (
        "Show the settings.",
        "[OPTIONS] TARGET Show",
        "TARGET What. [required]",
        "--count INTEGER How many. [default: 2] [x>=1]",
        "--kind round|square Kind of shape. [default: round]",
        "--size INTEGER Size of the part. [default: 3] [x>=1]",
        "--name NAME Names. [default: all]",
        "--path PATH A file.",
        "--quick Be quick.",
        "--set KEY=VALUE",
        "--json",
    ):
        assert text in shown
    assert "hidden NUMBER How well it is hidden. [default: 0.5]" in shown.split("Further")[1]
    assert "--hidden" not in shown
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


@pytest.mark.parametrize("name", VERBS)
def test_every_option_and_setting_is_described(name: str) -> None:
    stage = VERBS[name].stage_settings()
    fields = fields_of(VERBS[name]) | ({} if stage is None else fields_of(stage))
    assert [key for key, field in fields.items() if not field.description] == []
    for key in (VERBS[name].setting_keys or ()) if stage else ():
        assert key in fields


@pytest.mark.parametrize("name", [*VERBS, "bids_app"])
def test_no_two_options_of_a_verb_have_the_same_name(name: str) -> None:
    places = (verbs, verbs, training_verbs)
    own = next((getattr(place, name) for place in places if hasattr(place, name)), None)
    chosen = bids_app if name == "bids_app" else own
    chosen.complete()
    settings = dict(chosen.settings())
    fields = [*chosen.fields(), *((key, settings[key][0]) for key in chosen.option_keys())]
    names = [one for key, field in fields for one in option_names(key, field)]
    assert len(names) == len(set(names))


def test_the_schema_has_options_and_settings() -> None:
    for name in VERBS:
        written = schema(name)
        assert json.loads(json.dumps(written)) == written
    train = cast(dict[str, Any], schema("train"))
    assert train["options"]["properties"]["resume"]["default"] is False
    assert train["settings"]["properties"]["epochs"]["minimum"] == 1
    assert train["settings"]["properties"]["epochs"]["description"]
    assert schema("inspect")["settings"] is None
    with pytest.raises(SettingsError, match="no verb 'trian'"):
        schema("trian")


def test_functions_have_the_defaults_of_the_verbs() -> None:
    compared = 0
    verbs = ("prepare", "inspect", "train", "tune", "benchmark", "translate", "evaluate", "export")
    for name in verbs:
        fields = VERBS[name].model_fields
        optional = {key for key, field in fields.items() if not field.is_required()}
        for key, parameter in signature(getattr(mrbridge, name)).parameters.items():
            has_default = parameter.default is not parameter.empty
            if key in optional and has_default and (name, key) not in DIFFERENT:
                assert parameter.default == fields[key].default, (name, key)
                compared += 1
    assert compared > 10


DIFFERENT = {("translate", "model"), ("train", "start"), ("tune", "start"), ("benchmark", "start")}
"""None on the command line means the defaults of the functions: the shipped model and `auto`."""


def test_settings_are_imported_without_slow_libraries() -> None:
    slow = {"torch", "numpy", "scipy", "nibabel", "yaml", "typer"}
    code = (
        "import sys, mrbridge.verb_settings as verbs\n"
        "for model in verbs.VERBS.values(): model.stage_settings()\n"
        f"assert not {slow} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
