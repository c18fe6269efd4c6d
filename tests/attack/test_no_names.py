"""Names of patients stay out of outputs, logs and reports."""

from __future__ import annotations

import gzip
import json
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import pydicom
import pytest
from tests.conftest import ellipsoids
from tests.studies import write_series

from mrbridge import io
from mrbridge.training.logging import TrainingLog

GOLDEN = Path(__file__).parents[1] / "data" / "golden-bundle"
NAME = "DOE_JOHN_19500101"
Run = Callable[..., tuple[int, str, str]]


def named_scan(path: Path, version: int) -> Path:
    """A scan with the name in every text field and every unused field, and in an extension."""
    volume = ellipsoids(1, "T1w")
    image = (nib.Nifti1Image, nib.Nifti2Image)[version - 1](volume.voxels, volume.affine)
    for field in ("data_type", "db_name", "descrip", "aux_file", "intent_name", "unused_str"):
        if field in image.header:
            image.header[field] = b"DOE^JOHN"
    if version == 1:
        image.header["extents"] = int.from_bytes(b"DOE^", "little")
        image.header["glmax"] = int.from_bytes(b"JOHN", "little")
        image.header["session_error"] = int.from_bytes(b"DO", "little")
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JOHN"))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("place", [".", "elsewhere"])
def test_a_single_file(version: int, place: str, run: Run, tmp_path: Path) -> None:
    scan = named_scan(tmp_path / f"{NAME}_T1w.nii.gz", version)
    out = tmp_path / place / "anon.nii.gz"
    assert run("translate", "-i", scan, "-o", out, "-m", GOLDEN)[0] == 0
    sidecar_text = out.with_name("anon.json").read_text()
    written = gzip.decompress(out.read_bytes()) + sidecar_text.encode()
    for part in (b"DOE", b"JOHN", b"1950"):
        assert part not in written
    assert json.loads(sidecar_text)["Sources"][0].startswith("sha256:")
    header = nib.load(out).header
    assert header.get("regular", b"r") == b"r"
    assert header.get("session_error", 0) == 0


@pytest.mark.parametrize(
    ("name", "out", "kept"),
    [
        ("sub-01_T1w.nii.gz", "sub-01_T2w.nii.gz", True),
        ("sub-01_T1w.nii.gz", "made/sub-01_desc-synth_T2w.nii.gz", True),
        ("scan.nii.gz", "scan_T2w.nii", True),
        ("JOHN_DOE.nii.gz", "JOHN_T2w.nii.gz", False),
        ("T1w.nii.gz", "T2w.nii.gz", False),
    ],
)
def test_the_source_is_named_as_the_output_is(
    name: str, out: str, kept: bool, run: Run, tmp_path: Path
) -> None:
    io.write(ellipsoids(1, "T1w"), tmp_path / name)
    assert run("translate", "-i", tmp_path / name, "-o", tmp_path / out, "-m", GOLDEN)[0] == 0
    sidecar = (tmp_path / out).with_name(Path(out).name.split(".")[0] + ".json")
    fields = json.loads(sidecar.read_text())
    assert fields["SpatialReference"] == fields["Sources"][0]
    assert (fields["Sources"] == [name]) == kept


def test_modes_are_kept(run: Run, tmp_path: Path) -> None:
    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    io.write(ellipsoids(1, "T1w"), tmp_path / "a_T1w.nii.gz")
    out = tmp_path / "a_T2w.nii.gz"
    command = ["translate", "-i", tmp_path / "a_T1w.nii.gz", "-o", out, "-m", GOLDEN]
    assert run(*command)[0] == 0
    (tmp_path / "new").touch()
    assert mode(out) == mode(tmp_path / "new")
    for path, private in ((out, 0o600), (tmp_path / "a_T2w.json", 0o640)):
        path.chmod(private)
    assert run(*command)[0] == 0
    assert (mode(out), mode(tmp_path / "a_T2w.json")) == (0o600, 0o640)
    write_series(tmp_path / "dcm")
    command = ["translate", "-i", tmp_path / "dcm", "-o", tmp_path / "made", "-m", GOLDEN]
    assert run(*command)[0] == 0
    (tmp_path / "made").chmod(0o700)
    (tmp_path / "made" / "0001.dcm").chmod(0o600)
    assert run(*command)[0] == 0
    assert mode(tmp_path / "made") == 0o700
    assert mode(tmp_path / "made" / "0001.dcm") == 0o600


def test_a_run_does_not_name_the_computer(tmp_path: Path) -> None:
    TrainingLog(tmp_path)
    names = [path.name for path in tmp_path.rglob("*tfevents*")]
    assert names
    assert not any(socket.gethostname() in name for name in names)


@pytest.mark.parametrize("fault", ["cut", "pixels", "slope", "text", "version"])
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_files_of_a_study(fault: str, packed: bool, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    for number, path in enumerate(sorted(write_series(folder / NAME)), 1):
        path.rename(path.with_name(f"{NAME}_5_{number:02}.dcm"))
    bad = sorted((folder / NAME).iterdir())[2]
    content = bad.read_bytes()
    if fault == "cut":
        bad.write_bytes(content[:600])
    elif fault == "text":
        bad.write_bytes(b"no image")
    elif fault == "pixels":
        bad.write_bytes(content[:-100])
    else:
        one = pydicom.dcmread(bad)
        if fault == "slope":
            one.RescaleSlope = 0
        else:
            one.PixelData = bytes(len(one.PixelData))
            bad = bad.with_name(f"{NAME}_x.dcm")
        one.save_as(bad)
    source = folder
    if packed:
        source = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", folder))
    code, out, err = run("translate", "-i", source, "-o", tmp_path / "out", "-m", GOLDEN)
    assert code == 2
    for part in ("DOE", "JOHN", "1950"):
        assert part not in out + err
    assert str(source) in err
    assert fault == "text" or "by name)" in err
    run("prepare", source, "-o", tmp_path / "store")
    written = b"".join(p.read_bytes() for p in tmp_path.glob("store/*.json"))
    assert b"DOE" not in written


@pytest.mark.parametrize(
    ("source", "out", "link"),
    [
        ("clinic_DOE_JOHN/bids", "clinic_DOE_JOHN/bids/derivatives/mrbridge", "../.."),
        ("clinic_DOE_JOHN/bids", "clinic_DOE_JOHN/synthetic", "../bids"),
        ("clinic_DOE_JOHN/bids", "out", None),
        ("DOE_JOHN", "out", None),
        ("raw data", "out", "../raw%20data"),
        ("ds000117", "derivatives/mrbridge", "../../ds000117"),
    ],
)
def test_derivatives_do_not_say_where_their_source_is(
    source: str, out: str, link: str | None, run: Run, bids_scans: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(bids_scans, tmp_path / source)
    command = ["translate", "-o", tmp_path / out, "-m", GOLDEN, "-i"]
    assert run(*command, root)[0] == 0
    files = [path for path in (tmp_path / out).rglob("*") if path.is_file()]
    written = b"".join(path.read_bytes() for path in files if path.suffix != ".gz")
    assert b"DOE" not in written
    description = json.loads((tmp_path / out / "dataset_description.json").read_text())
    if link is not None:
        assert description["DatasetLinks"] == {"raw": link}
        assert description["SourceDatasets"] == [{"URL": link}]
        return
    assert description["DatasetLinks"]["raw"].startswith("ni:///sha-256;")
    assert "SourceDatasets" not in description
    # It moves; another dataset does not come in.
    moved = root.rename(tmp_path / "elsewhere_DOE")
    assert run(*command, moved)[0] == 0
    (moved / "dataset_description.json").write_text('{"Name": "another", "BIDSVersion": "1.10.0"}')
    code, _, err = run(*command, moved)
    assert code == 2
    assert "holds derivatives of another dataset" in err


def test_derivatives_of_an_earlier_version_forget_where_their_source_is(
    run: Run, bids_scans: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(bids_scans, tmp_path / NAME)
    command = ["translate", "-i", root, "-o", tmp_path / "out", "-m", GOLDEN]
    assert run(*command)[0] == 0
    path = tmp_path / "out" / "dataset_description.json"
    description = json.loads(path.read_text())
    description |= {
        "DatasetLinks": {"raw": f"../{NAME}"},
        "SourceDatasets": [{"URL": f"../{NAME}"}],
    }
    path.write_text(json.dumps(description | {"Authors": ["me"]}))
    assert run(*command)[0] == 0
    assert NAME not in path.read_text()
    assert json.loads(path.read_text())["Authors"] == ["me"]
