"""Settings refuse unknown keys, and suggest the nearest known one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

import pytest
from pydantic import Field, ValidationError, model_validator

from mrbridge.errors import SettingsError
from mrbridge.settings import Settings, fields_of, merged, read_assignments, read_yaml


class Inner(Settings):
    epochs: int = Field(3, ge=1)


class Outer(Settings):
    rate: float = 0.1
    inner: Inner = Inner()


def test_values_are_taken() -> None:
    outer = Outer.build({"rate": 0.5, "inner": {"epochs": 7}})
    assert (outer.rate, outer.inner.epochs) == (0.5, 7)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rat": 1}, r"did you mean 'rate'\?$"),
        ({"inner": {"epoch": 1}}, r"did you mean 'inner\.epochs'\?$"),
        ({"zzz": 1}, "there is no key 'zzz', nor one like it. Known keys: rate, inner.epochs.$"),
        ({"inner": {"epochs": 0}}, r"'inner\.epochs' cannot be 0.* Choose another value\.$"),
        ({"rate": "fast"}, "'rate' cannot be 'fast'"),
        (
            {"inner": {"epochs": True}},
            "in 'inner', 'epochs' cannot be True: it is a number",
        ),
    ],
)
def test_problems_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        Outer.build(values, origin="run.yaml")
    assert "run.yaml" in str(caught.value)


def test_settings_do_not_change() -> None:
    outer = Outer()
    with pytest.raises(ValidationError):
        outer.rate = 3  # type: ignore[misc]
    changed = outer.changed({"inner": {"epochs": 9}})
    assert (outer.inner.epochs, changed.inner.epochs, changed.rate) == (3, 9, 0.1)


class One(Settings):
    kind: Literal["one"] = "one"
    features: int = 1


class Two(Settings):
    kind: Literal["two"] = "two"
    blocks: int = Field(2, ge=1)


class Choice(Settings):
    part: Annotated[One | Two, Field(discriminator="kind")] = One()


def test_keys_of_a_field_that_is_one_of_several_kinds() -> None:
    assert list(fields_of(Choice)) == ["part.kind", "part.features", "part.blocks"]
    assert get_args(fields_of(Choice)["part.kind"].annotation) == ("one", "two")
    with pytest.raises(
        SettingsError, match=r"no key 'part\.feature', did you mean 'part\.features'"
    ):
        Choice.build({"part": {"kind": "one", "feature": 3}})
    with pytest.raises(SettingsError, match=r"'part\.blocks' cannot be 0"):
        Choice.build({"part": {"kind": "two", "blocks": 0}})
    with pytest.raises(SettingsError, match=r"no key 'part\.features', nor one like it\. Known"):
        Choice.build({"part": {"kind": "two", "features": 3}})


def test_another_kind_brings_its_own_values() -> None:
    changed = Choice(part=One(features=7)).changed({"part": {"kind": "two"}})
    assert changed == Choice(part=Two())
    assert changed.changed({"part": {"kind": "two", "blocks": 5}}).part == Two(blocks=5)
    assert Choice(part=One(features=7)).changed({"part": {"kind": "one"}}).part == One(features=7)


def test_no_setting_is_infinite() -> None:
    for value in (float("inf"), float("nan")):
        with pytest.raises(SettingsError, match="finite"):
            Outer.build({"rate": value})


class Range(Settings):
    low: int = 0
    high: int = 1

    @model_validator(mode="after")
    def _check(self) -> Range:
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


def test_values_that_do_not_go_together() -> None:
    with pytest.raises(SettingsError, match=r"^low is above high\. Choose another value\.$"):
        Range.build({"low": 3})


def test_keys_and_merging() -> None:
    assert list(fields_of(Outer)) == ["rate", "inner.epochs"]
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merged(base, {"a": {"b": 9}, "e": 4}) == {"a": {"b": 9, "c": 2}, "d": 3, "e": 4}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}
    assert merged({"a": {"b": 1}}, {"a": 5}) == {"a": 5}


def test_assignments() -> None:
    changes = read_assignments(["a.b=3", "a.c=[1, 2]", "name=x=y", "empty="])
    assert changes == {"a": {"b": 3, "c": [1, 2]}, "name": "x=y", "empty": None}
    for bad in ("novalue", "=3", "a=[1", "a=" + "[" * 10_000, "a=\x07"):
        with pytest.raises(SettingsError, match=r"assignment|YAML"):
            read_assignments([bad])


@pytest.mark.parametrize("text", ["epochs=1:30", "epochs=010", "rate=1:30.5", "a={b: 1, b: 2}"])
def test_what_yaml_reads_as_something_else_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"not a plain decimal number|'b' occurs twice"):
        read_assignments([text])
    assert read_assignments(["name='010'", "rate=0.5", "n=1_000"]) == {
        "name": "010",
        "rate": 0.5,
        "n": 1000,
    }


def test_a_key_that_occurs_twice(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("inner:\n  epochs: 4\nrate: 0.5\ninner:\n  epochs: 7\n")
    with pytest.raises(SettingsError, match=r"run\.yaml.*the key 'inner' occurs twice"):
        read_yaml(path)


def test_yaml(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("rate: 0.5\ninner:\n  epochs: 4\n")
    assert read_yaml(path) == {"rate": 0.5, "inner": {"epochs": 4}}
    path.write_text("")
    assert read_yaml(path) == {}
    for bad in ("- a\n- b\n", "a: [1\n", "[" * 10_000, "a: \x1b[2J", "a: \ufffe"):
        path.write_text(bad)
        with pytest.raises(SettingsError, match=r"run\.yaml"):
            read_yaml(path)
    with pytest.raises(SettingsError, match="absent"):
        read_yaml(tmp_path / "absent.yaml")
