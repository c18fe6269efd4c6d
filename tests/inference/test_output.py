"""No acquired image is replaced by a synthetic one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mrbridge import io
from mrbridge.bundle import Bundle
from mrbridge.dataset.prepare import prepare
from mrbridge.errors import OutputError, SomeScansFailed
from mrbridge.inference.translate import translate
from mrbridge.volume import Volume


@pytest.fixture
def folder(make_scan: Callable[..., Volume], tmp_path: Path) -> Path:
    """T1w and T2w of one subject, each with a sidecar."""
    for contrast in ("T1w", "T2w"):
        io.write(make_scan(6, contrast), tmp_path / "in" / f"sub-06_{contrast}.nii.gz")
        (tmp_path / "in" / f"sub-06_{contrast}.json").write_text('{"EchoTime": 0.003}')
    return tmp_path / "in"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_acquired_scan_stays(tiny_bundle: Bundle, folder: Path) -> None:
    before = contents(folder)
    with pytest.raises(OutputError, match=r"sub-06_T2w\.nii\.gz: already exists"):
        translate(folder / "sub-06_T1w.nii.gz", folder / "sub-06_T2w.nii.gz", model=tiny_bundle)
    assert contents(folder) == before


def test_a_sidecar_stays(tiny_bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    (folder / "made.json").write_text('{"EchoTime": 0.1}')
    before = contents(folder)
    with pytest.raises(OutputError, match=r"made\.json: already exists"):
        translate(folder / "sub-06_T1w.nii.gz", folder / "made.nii.gz", model=tiny_bundle)
    with pytest.raises(OutputError, match=r"T1w\.json: would be the sidecar of both"):
        translate(folder / "sub-06_T1w.nii.gz", folder / "sub-06_T1w.nii", model=tiny_bundle)
    assert contents(folder) == before


def test_an_acquired_picture_stays(
    tiny_bundle: Bundle, picture_folder: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(picture_folder, tmp_path / "pictures")
    before = contents(root / "TrainT2")
    with pytest.raises(SomeScansFailed):
        translate(root / "TrainT1", root / "TrainT2", model=tiny_bundle)
    after = contents(root / "TrainT2")
    report = json.loads(after.pop("report.json"))
    assert {item["source"] for item in report["failed"]} == set(after) & {
        path.name for path in (root / "TrainT1").iterdir()
    }
    assert {name: after[name] for name in before} == before


def test_an_earlier_synthesis_is_replaced(
    tiny_bundle: Bundle, folder: Path, picture_folder: Path, tmp_path: Path
) -> None:
    picture = next((picture_folder / "TrainT1").glob("*.png"))
    for source in (folder / "sub-06_T1w.nii.gz", picture):
        (first,) = translate(source, tmp_path / "out", model=tiny_bundle)
        made = first.output.read_bytes()
        os.utime(first.output, (0, 0))
        (again,) = translate(source, tmp_path / "out", model=tiny_bundle)
        assert again.output.read_bytes() == made
        assert again.output.stat().st_mtime > 0


def test_two_scans_never_share_a_sidecar(
    tiny_bundle: Bundle, make_scan: Callable[..., Volume], tmp_path: Path
) -> None:
    for name in ("scan.nii", "scan.nii.gz"):
        io.write(make_scan(6, "T1w"), tmp_path / "T1" / name)
    with pytest.raises(SomeScansFailed, match="1 of 2 scans failed"):
        translate(tmp_path / "T1", tmp_path / "out", model=tiny_bundle)
    assert json.loads((tmp_path / "out" / "scan.json").read_text())["Sources"] == ["scan.nii"]


def test_the_output_may_contain_the_input(
    tiny_bundle: Bundle, make_scan: Callable[..., Volume], tmp_path: Path
) -> None:
    source = io.write(make_scan(6, "T1w"), tmp_path / "raw" / "one_T1w.nii.gz")
    (done,) = translate(source.parent, tmp_path, model=tiny_bundle)
    assert done.output == tmp_path / "one_T1w.nii.gz"
    # What lies within the input, on the other hand, is not translated again.
    for _ in range(2):
        (done,) = translate(source.parent, source.parent / "made", model=tiny_bundle)
        assert done.output == source.parent / "made" / "one_T1w.nii.gz"


def test_file_names_that_are_not_text(
    tiny_bundle: Bundle, make_scan: Callable[..., Volume], tmp_path: Path
) -> None:
    for contrast in ("T1", "T2"):
        path = io.write(make_scan(6, f"{contrast}w"), tmp_path / "raw" / f"x_{contrast}.nii.gz")
        path.rename(path.with_name(os.fsdecode(f"M\xfcller_{contrast}.nii.gz".encode("latin-1"))))
    (tmp_path / "raw" / os.fsdecode(b"\xfc.txt")).touch()
    (done,) = translate(tmp_path / "raw", tmp_path / "out", model=tiny_bundle, to="T2w")
    assert done.output.is_file()
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert os.fsencode(report["done"][0]["source"]) == b"M\xfcller_T1.nii.gz"
    store = prepare(tmp_path / "raw", tmp_path / "store")
    assert len(store.records()) == 2
    assert len(prepare(tmp_path / "raw", tmp_path / "store").records()) == 2
