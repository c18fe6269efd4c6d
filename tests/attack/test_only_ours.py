"""Only what mrbridge made is replaced, and an image never keeps the sidecar of another model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tests import studies

from mrbridge import io
from mrbridge.bundle import Bundle
from mrbridge.dataset.store import Store
from mrbridge.io.ownership import is_ours
from mrbridge.volume import Volume

Run = Callable[..., tuple[int, str, str]]
GOLDEN = Path(__file__).parents[1] / "data" / "golden-bundle"
FOREIGN = "was not made by mrbridge"


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def head(tmp_path: Path, make_scan: Any) -> Path:
    """One acquired T1w."""
    return io.write(make_scan(3, "T1w", shape=(24, 28, 4)), tmp_path / "in/sub-01_T1w.nii.gz")


def test_dicom_to_nifti_spares_acquired_scans(
    run: Run, head: Path, make_scan: Any, tmp_path: Path
) -> None:
    studies.write_series(tmp_path / "dcm", SeriesDescription="T1 MPRAGE")
    mine = tmp_path / "mine"
    io.write(make_scan(3, "T2w"), mine / "acq_T2w.nii.gz")
    io.write(make_scan(3, "T2w"), mine / "series-5_desc-synth_T2w.nii.gz")
    (mine / "side.json").write_text('{"EchoTime": 0.1}')
    before = content(tmp_path)
    model = ("-m", GOLDEN, "--to", "T2w")
    for out in (mine / "acq_T2w.nii.gz", mine / "side.nii.gz"):
        code, _, err = run("translate", "-i", tmp_path / "dcm", "-o", out, *model)
        assert (code, FOREIGN in err) == (2, True)
    code, _, err = run("translate", "-i", tmp_path / "dcm", "-o", mine, *model, "--as", "nifti")
    assert (code, FOREIGN in err) == (2, True)
    inside = tmp_path / "dcm/out.nii.gz"
    code, _, err = run("translate", "-i", tmp_path / "dcm", "-o", inside, *model)
    assert (code, "in the folder of the source" in err) == (2, True)
    assert content(tmp_path) == before
    free = tmp_path / "free.nii.gz"
    for _ in range(2):  # again over its own
        assert run("translate", "-i", tmp_path / "dcm", "-o", free, *model)[0] == 0


def test_a_derived_series_of_another_study_stays(run: Run, tmp_path: Path) -> None:
    for name in ("one", "other"):
        uid = f"1.2.{len(name)}"
        how: dict[str, Any] = {
            "SeriesDescription": "T1",
            "StudyInstanceUID": uid,
            "SeriesInstanceUID": f"{uid}.1",
        }
        studies.write_series(tmp_path / name, **how)
    out = tmp_path / "out"
    model = ("-o", out, "-m", GOLDEN, "--to", "T2w")
    assert run("translate", "-i", tmp_path / "one", *model)[0] == 0
    assert run("translate", "-i", tmp_path / "one", *model)[0] == 0
    before = content(out)
    code, _, err = run("translate", "-i", tmp_path / "other", *model)
    assert (code, "another series" in err) == (2, True)
    assert content(out) == before
    (out / "0099.dcm").write_bytes((tmp_path / "other").glob("*").__next__().read_bytes())
    code, _, err = run("translate", "-i", tmp_path / "one", *model)
    assert (code, "holds other files" in err) == (2, True)


def test_an_acquired_image_that_says_synthetic_stays(
    run: Run, head: Path, picture_folder: Path, tmp_path: Path
) -> None:
    source = next(picture_folder.rglob("*T1*/*.png"))
    info = PngInfo()
    info.add_text("Description", "Synthetic MR (MAGiC), acquired 2020")
    out = tmp_path / "magic.png"
    Image.fromarray(np.full((36, 44), 7, np.uint8)).save(out, pnginfo=info)
    (tmp_path / "magic.json").write_text('{"SyntheticData": true}')
    before = out.read_bytes()
    code, _, err = run("translate", "-i", source, "-o", out, "-m", GOLDEN, "--to", "T2w")
    assert (code, FOREIGN in err) == (2, True)
    assert out.read_bytes() == before
    code, _, err = run("translate", "-i", head, "-o", tmp_path / "magic.nii.gz", "-m", GOLDEN)
    assert (code, "magic.json" in err) == (2, True)
    for suffix in (".png", ".tif", ".jpg", ".nii", ".nii.gz"):
        made = tmp_path / f"ours{suffix}"
        io.write(
            Volume(np.ones((9, 8, 1), np.uint8), None if made.suffix != ".nii" else np.eye(4))
            if "nii" not in suffix
            else Volume(np.ones((9, 8, 2), np.uint8), np.eye(4)),
            made,
            synthetic_note="synthetic T2w, mrbridge 0.1.0, research only",
        )
        assert is_ours(made)


def test_a_foreign_report_stays(run: Run, head: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").write_text('{"patients": 12}')
    code, _, err = run("translate", "-i", head.parent, "-o", out, "-m", GOLDEN)
    assert (code, "report.json" in err) == (2, True)
    assert content(out) == {"report.json": b'{"patients": 12}'}


def test_a_folder_of_arrays_is_not_a_store(
    run: Run, bids_scans: Path, small_store: Store, tmp_path: Path
) -> None:
    import shutil

    mine = tmp_path / "mine/scans/important.zarr"
    mine.mkdir(parents=True)
    (mine / "zarr.json").write_text('{"zarr_format": 3, "attributes": {}}')
    before = content(tmp_path)
    code, _, err = run("prepare", bids_scans, "-o", tmp_path / "mine")
    assert (code, "not a store" in err) == (2, True)
    assert content(tmp_path) == before
    store = tmp_path / "store"
    shutil.copytree(small_store.path, store)
    shutil.copytree(mine, store / "scans/important.zarr")
    (store / "manifest.json").unlink()
    assert run("prepare", bids_scans, "-o", store)[0] == 2
    shutil.copy(small_store.path / "manifest.json", store)
    assert run("prepare", bids_scans, "-o", store)[0] == 0
    assert (store / "scans/important.zarr/zarr.json").is_file()


@pytest.mark.parametrize(
    "files",
    [
        {"settings.yaml": "preset: mine\n"},
        {"metrics.csv": "1,2\n"},
        {"settings.yaml": "a: 1\n", "notes.txt": "x"},
    ],
)
def test_a_project_is_not_a_run(
    run: Run, small_store: Store, files: dict[str, str], tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    before = content(tmp_path)
    code, _, err = run("train", small_store.path, "-o", tmp_path)
    assert (code, "is not empty" in err) == (2, True)
    assert content(tmp_path) == before


@pytest.mark.parametrize("name", ["scores.csv", "scores.json", "report.html"])
def test_foreign_tables_and_pages_stay(
    run: Run, bids_scans: Path, name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text("mine, made with mrbridge")
    code, _, err = run("evaluate", "-m", GOLDEN, "--pairs", bids_scans, "-o", tmp_path)
    assert (code, name in err) == (2, True)
    assert content(tmp_path) == {name: b"mine, made with mrbridge"}


def test_foreign_pages_and_exports_stay(run: Run, bids_scans: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<p>about mrbridge</p>")
    assert run("inspect", bids_scans, "-o", page)[0] == 2
    page.unlink()
    findings = tmp_path / "page.findings.json"
    findings.write_text('{"mine": 1}')
    assert run("inspect", bids_scans, "-o", page)[0] == 2
    assert content(tmp_path) == {"page.findings.json": b'{"mine": 1}'}
    (tmp_path / "T1w_to_T2w.onnx").write_bytes(b"mrbridge")
    assert run("export", "-m", GOLDEN, "-o", tmp_path)[0] == 2
    assert (tmp_path / "T1w_to_T2w.onnx").read_bytes() == b"mrbridge"


@pytest.mark.parametrize("there", ['{"mrbridge": "0.1.0", "settings": {}}', '{"mine": 1}'])
def test_a_simulated_data_set_with_a_foreign_file_stays(
    run: Run, there: str, tmp_path: Path
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/phantom.json").write_text(there)
    (tmp_path / "notes.txt").write_text("mine")
    before = content(tmp_path)
    code, _, err = run("phantom", "-o", tmp_path, "--subjects", "1", "--overwrite")
    assert (code, "holds" in err) == (2, True)
    assert content(tmp_path) == before


def test_a_place_for_a_sidecar_that_is_a_folder(run: Run, head: Path, tmp_path: Path) -> None:
    (tmp_path / "o.json").mkdir()
    code, _, err = run("translate", "-i", head, "-o", tmp_path / "o.nii.gz", "-m", GOLDEN)
    assert (code, "o.json: is a folder" in err) == (2, True)
    assert not (tmp_path / "o.nii.gz").exists()


KILLED = """
import json, os, signal, sys
import mrbridge.inference.translate  # takes seconds: once for all forks
from mrbridge import cli
replace = os.replace
def counted(*paths):
    global left
    left -= 1
    if not left: os.kill(os.getpid(), signal.SIGKILL)
    replace(*paths)
for left, command in enumerate(json.loads(sys.argv[1]), start=1):
    if not os.fork():
        os.replace = counted
        cli.main(command)
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


def test_a_kill_leaves_no_sidecar_of_another_model(
    run: Run, head: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outs = [tmp_path / f"out{last}" / "x.nii.gz" for last in (1, 2, 3)]
    for out in outs:
        assert run("translate", "-i", head, "-o", out, "-m", GOLDEN)[0] == 0
    old = outs[0].read_bytes()
    model = str(tiny_bundle.path)
    lines = [["translate", "-i", str(head), "-o", str(out), "-m", model] for out in outs]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(lines)], stdout=subprocess.PIPE, check=True
    )
    assert [int(code) for code in done.stdout.split()] == [-signal.SIGKILL] * 3
    for out in outs:
        sidecar = out.with_name("x.json")
        assert out.is_file()
        if sidecar.is_file():
            model = json.loads(sidecar.read_text())["GeneratedBy"][0]["Model"]
            assert (model == tiny_bundle.hash) == (out.read_bytes() != old)
        # The next process of any writer removes what the killed one left.
        monkeypatch.setattr("mrbridge.io.atomic._swept", set())
        other = out.with_name("other.nii.gz")
        assert run("translate", "-i", head, "-o", other, "-m", GOLDEN)[0] == 0
        assert not [name for name in os.listdir(out.parent) if name.startswith(".~")]
