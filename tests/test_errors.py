"""Errors name the file, what is wrong and what to do, also across processes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

import mrbridge
from mrbridge import errors
from mrbridge.errors import InputError, MrbridgeError, MrbridgeWarning, StoreError, must_exist

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, MrbridgeError)
]


def test_an_error_is_one_line() -> None:
    error = InputError("is truncated", path="a/scan.nii.gz", remedy="Get it again.")
    assert str(error) == "a/scan.nii.gz: is truncated. Get it again."
    assert error.path == Path("a/scan.nii.gz")
    assert str(InputError("is truncated")) == "is truncated."


@pytest.mark.parametrize("kind", KINDS)
def test_errors_survive_pickling(kind: type[MrbridgeError]) -> None:
    error = pickle.loads(pickle.dumps(kind("what", path="where", remedy="Do.")))
    assert type(error) is kind
    assert str(error) == "where: what. Do."


def test_exit_codes() -> None:
    codes = {kind.__name__: kind.exit_code for kind in KINDS}
    assert codes.pop("SomeScansFailed") == 1
    assert codes.pop("Interrupted") == 3
    assert set(codes.values()) == {2}


def test_what_must_exist(tmp_path: Path) -> None:
    must_exist(tmp_path)
    with pytest.raises(InputError, match=r"absent: does not exist\. Check the path"):
        must_exist(tmp_path / "absent")
    with pytest.raises(StoreError, match=r"absent: does not exist\. Make it"):
        must_exist(str(tmp_path / "absent"), StoreError, "Make it.")


def test_a_warning_names_the_file_and_the_line_of_the_caller(tmp_path: Path) -> None:
    table = tmp_path / "scans.csv"
    table.write_text("contrast,path\nT1w,a.nii\n", encoding="utf-16")
    with pytest.warns(MrbridgeWarning) as caught, pytest.raises(InputError):
        mrbridge.prepare(table, tmp_path / "store")
    assert {one.filename for one in caught} == {__file__}
    assert str(caught[0].message) == f"{table}: is not UTF-8; it is read as utf-16"
