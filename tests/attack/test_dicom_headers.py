"""A derived series is of one patient, and has the intensities that its headers say."""

from __future__ import annotations

import copy
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import config
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from tests.studies import T1W, datasets, enhanced, marked, save, write_series

from mrbridge import io
from mrbridge.errors import MrbridgeWarning
from mrbridge.volume import Volume

GOLDEN = Path(__file__).parents[1] / "data" / "golden-bundle"
Run = Callable[..., tuple[int, str, str]]


def put(path: Path, keyword: str, text: str) -> None:
    """Write a tag's bytes as they are, valid or not."""
    one = pydicom.dcmread(path)
    tag = Tag(keyword)
    value = text.encode() + b" " * (len(text) % 2)
    one[tag] = RawDataElement(tag, "DS", len(value), value, 0, False, True)
    one.save_as(path)


def translate(run: Run, folder: Path, *more: str) -> tuple[int, str, str]:
    return run("translate", "-i", folder, "-o", folder.parent / "out", "-m", GOLDEN, *more)


@pytest.mark.parametrize("index", [0, 3, 6])
@pytest.mark.parametrize(
    "changes",
    [
        {"PatientName": "Wrong^Person", "PatientID": "9999"},
        {"PatientID": "9999"},
        {"PatientID": "04711"},
        {"PatientName": "Wrong^Person"},
        {"PatientBirthDate": "19700102"},
    ],
)
def test_several_patients(changes: dict[str, Any], index: int, run: Run, tmp_path: Path) -> None:
    paths = write_series(tmp_path / "dcm")
    one = pydicom.dcmread(sorted(paths)[index])
    for keyword, value in changes.items():
        setattr(one, keyword, value)
    one.save_as(sorted(paths)[index])
    for more in ((), ("--as", "nifti"), ("--series", "5"), ("--force",)):
        code, _, err = translate(run, tmp_path / "dcm", *more)
        assert code == 2
        assert "several patients" in err
        assert "Wrong" not in err
        assert "9999" not in err
    assert not (tmp_path / "out").exists()


def test_echoes_of_several_patients(run: Run, tmp_path: Path) -> None:
    for echo, patient in ((1.6, "1"), (3.4, "2")):
        made = datasets(marked(), **T1W | {"EchoTime": echo, "PatientID": patient})
        for one in made:
            one.SOPInstanceUID = f"{one.SOPInstanceUID[:-1]}{patient}"
        save(tmp_path / "dcm", made, prefix=f"E{patient}")
    code, _, err = translate(run, tmp_path / "dcm")
    assert code == 2
    assert "several patients" in err


def test_copies_of_several_patients(run: Run, tmp_path: Path) -> None:
    write_series(tmp_path / "dcm" / "a")
    write_series(tmp_path / "dcm" / "b", PatientID="anonymous", PatientName="anonymous")
    code, _, err = translate(run, tmp_path / "dcm")
    assert code == 2
    assert "two versions" in err


def test_one_patient_written_in_several_ways(run: Run, tmp_path: Path) -> None:
    paths = sorted(write_series(tmp_path / "dcm"))
    for path, name in zip(paths, ["SECRETIVE^PATIENT", "Secretive Patient^^", ""], strict=False):
        one = pydicom.dcmread(path)
        one.PatientName = name
        one.save_as(path)
    assert translate(run, tmp_path / "dcm")[0] == 0


@pytest.mark.parametrize("text", ["abc", "nan", "inf", "-inf", "1e999", "1\\2", "1,2,3", "--1"])
@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
def test_a_scale_that_is_not_a_number(keyword: str, text: str, run: Run, tmp_path: Path) -> None:
    paths = write_series(tmp_path / "dcm", slope=2.0)
    put(paths[2], keyword, text)
    code, _, err = translate(run, tmp_path / "dcm")
    assert code == 2
    assert f"its {keyword} is not a number" in err


def test_a_scale_that_is_missing_in_some(run: Run, tmp_path: Path) -> None:
    paths = write_series(tmp_path / "dcm", slope=2.0)
    one = pydicom.dcmread(paths[2])
    del one.RescaleSlope
    one.save_as(paths[2])
    code, _, err = translate(run, tmp_path / "dcm")
    assert code == 2
    assert "RescaleSlope is missing in 1 of 7 images (image 5), and is not 1 in the others" in err


def test_an_intercept_that_is_missing_in_some(run: Run, tmp_path: Path) -> None:
    paths = write_series(tmp_path / "dcm")
    one = pydicom.dcmread(paths[2])
    one.RescaleIntercept = 100
    one.save_as(paths[2])
    code, _, err = translate(run, tmp_path / "dcm")
    assert code == 2
    assert "RescaleIntercept is missing in 6 of 7 images" in err


def test_several_frames_of_reference(tmp_path: Path) -> None:
    """Positions in two of them cannot be compared (PS3.3, C.7.4.1)."""
    made = datasets(marked(), **T1W)
    made[2].FrameOfReferenceUID = "1.2.3"
    save(tmp_path, made)
    with pytest.warns(MrbridgeWarning, match="its images name 2 frames of reference, taken as one"):
        io.read(tmp_path)


def test_a_decimal_comma_is_read(tmp_path: Path) -> None:
    volume = marked()
    paths = write_series(tmp_path / "dcm", slope=1.5, volume=volume)
    expected = io.read(tmp_path / "dcm")
    put(paths[2], "RescaleSlope", "1,5")
    with pytest.warns(MrbridgeWarning, match="decimal commas"):
        read = io.read(tmp_path / "dcm")
    assert np.array_equal(read.voxels, expected.voxels)
    put(paths[3], "PixelSpacing", "0,9\\0,7")
    with pytest.warns(MrbridgeWarning, match="decimal commas"):
        assert np.allclose(io.read(tmp_path / "dcm").affine, expected.affine)


@pytest.mark.parametrize(("text", "good"), [("1,5", True), ("nan", False), ("abc", False)])
def test_scales_of_frames(text: str, good: bool, run: Run, tmp_path: Path) -> None:
    one = enhanced(Volume(marked().voxels, marked().affine), slope=1.5, **T1W)
    (path,) = save(tmp_path / "dcm", [one])
    if good:
        expected = io.read(tmp_path / "dcm").voxels
    one = pydicom.dcmread(path)
    groups = (one.PerFrameFunctionalGroupsSequence, one.SharedFunctionalGroupsSequence)
    holders = [group for items in groups for group in items]
    (item,) = [g for g in holders if "PixelValueTransformationSequence" in g][:1]
    value = text.encode() + b" " * (len(text) % 2)
    tag = Tag("RescaleSlope")
    scale = item.PixelValueTransformationSequence[0]
    scale[tag] = RawDataElement(tag, "DS", len(value), value, 0, False, True)
    config.settings.writing_validation_mode = config.IGNORE
    one.save_as(path)
    if good:
        with pytest.warns(MrbridgeWarning, match="decimal commas"):
            assert np.array_equal(io.read(tmp_path / "dcm").voxels, expected)
    else:
        assert translate(run, tmp_path / "dcm")[0] == 2


def peak_memory(*arguments: Any) -> tuple[int, str, int]:
    """Exit code, words on standard error and the most memory in bytes of a command line."""
    code = (
        "import re, sys\nfrom mrbridge.cli import main\n"
        "try:\n    main(sys.argv[1:])\nfinally:\n"
        # getrusage counts what the parent held when it forked.
        "    status = open('/proc/self/status').read()\n"
        "    print(int(re.search(r'VmHWM:\\s*(\\d+)', status)[1]) * 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr, int(done.stdout.split()[-1])


@pytest.mark.parametrize(
    ("kind", "verb"), [("one", "inspect"), ("many", "translate"), ("overlapping", "inspect")]
)
def test_zip_bombs(kind: str, verb: str, tmp_path: Path) -> None:
    (path, *_) = write_series(tmp_path / "dcm")
    content = path.read_bytes() + bytes(40 << 20)
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        if kind == "one":
            archive.writestr("a.dcm", content + bytes(200 << 20))
        elif kind == "many":
            for number in range(30):
                archive.writestr(f"{number}.dcm", content)
        else:
            archive.writestr("a.dcm", content)
            (info,) = archive.infolist()
            for number in range(2000):
                other = copy.copy(info)
                other.filename = f"{number}.dcm"
                archive.filelist.append(other)
    translation = "-i", bomb, "-o", tmp_path / "out", "-m", GOLDEN
    code, err, peak = peak_memory(verb, *([bomb] if verb == "inspect" else translation))
    assert code == 2, err
    assert "promises" in err
    assert peak < 1 << 30


def test_a_zip_of_blank_slices_is_read(tmp_path: Path) -> None:
    write_series(tmp_path / "dcm", Volume(np.zeros((512, 512, 3), np.uint16), marked().affine))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (tmp_path / "dcm").iterdir():
            archive.write(path, path.name)
    assert io.read(tmp_path / "a.zip").voxels.shape == (512, 512, 3)


def test_pixels_beyond_rows_and_columns(run: Run, tmp_path: Path) -> None:
    paths = write_series(tmp_path / "dcm")
    one = pydicom.dcmread(paths[3])
    one.PixelData = one.PixelData + bytes(1 << 20)
    one.save_as(paths[3])
    code, _, err = translate(run, tmp_path / "dcm")
    assert code == 2
    assert "its header promises" in err
