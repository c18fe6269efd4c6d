"""Preparing DICOM: a scan a series, subjects by pseudonym."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from tests.studies import NAME, T1W, T2W, datasets, save

from mrbridge import cli, io
from mrbridge.dataset.prepare import prepare
from mrbridge.dataset.store import Store
from mrbridge.errors import InputError, MrbridgeWarning, SomeScansFailed
from mrbridge.io.bids import find_scans
from mrbridge.io.dicom.files import DicomFile
from mrbridge.io.dicom.scans import series_sha256
from mrbridge.preprocessing.geometry import slice_grid
from mrbridge.preprocessing.preprocess import preprocess
from mrbridge.preprocessing.settings import PreprocessSettings
from mrbridge.volume import Volume

SHAPE = (40, 48, 6)


@pytest.fixture
def cohort(tmp_path: Path, make_scan: Callable[..., Volume]) -> Path:
    """Four patients with both contrasts; the first has a series that lacks a slice, too."""

    def add(patient: int, number: int, contrast: str, tags: dict[str, Any]) -> list[Path]:
        made = datasets(make_scan(patient, contrast, SHAPE), number, **tags)
        series = generate_uid(entropy_srcs=["cohort", str(patient), str(number)])
        for place, one in enumerate(made):
            one.PatientID, one.StudyInstanceUID = f"P{patient}", f"1.2.{patient}"
            one.PatientBirthDate = f"1970010{patient}"
            one.SeriesInstanceUID, one.SOPInstanceUID = series, f"{series}.{place}"[:64]
        return save(tmp_path / f"{NAME}{patient}", made, prefix=f"{NAME}.MR.{number}.")

    for patient in range(1, 5):
        add(patient, 3, "T1w", T1W)
        add(patient, 4, "T2w", T2W)
    add(1, 5, "T1w", T1W)[SHAPE[2] // 2].unlink()
    return tmp_path


def test_series_of_one_patient_that_show_two_heads_are_reported(
    cohort: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for path in (cohort / f"{NAME}2").glob("*.MR.4.*"):
        one = pydicom.dcmread(path)
        one.PixelData = np.roll(one.pixel_array, 5, 0).tobytes()
        one["PixelData"].VR = "OW"
        one.save_as(path)
    message = "series-4 of subject [0-9a-f]{12} does not show the anatomy of series-3"
    with pytest.warns(MrbridgeWarning, match=message) as caught:
        prepare(cohort, tmp_path_factory.mktemp("prepared") / "store")
    assert len(caught) == 1
    assert NAME.split("^")[0] not in str(caught[0].message)


def test_a_cohort(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (cohort / f"{NAME}2" / f"{NAME}.pdf").write_text(NAME)
    out = tmp_path_factory.mktemp("prepared") / "store"
    store = prepare(cohort, out)
    records = store.manifest.records
    assert len(records) == 8
    by_subject: dict[str | None, set[str]] = {}
    for record in records:
        by_subject.setdefault(record.subject, set()).add(record.contrast)
    assert len(by_subject) == 4
    assert all(contrasts == {"T1w", "T2w"} for contrasts in by_subject.values())
    letter, left_out = store.manifest.ignored
    assert (letter.name, letter.reason) == ("a file", "is not a DICOM file")
    assert left_out.name == "series-5"
    assert re.search(r"1 of 6 slices is missing .* between image \d+ and", left_out.reason)
    written = (out / "manifest.json").read_text() + "".join(p.name for p in out.rglob("*"))
    for secret in (NAME.split("^")[0], "P1", "P2"):
        assert secret not in written


def retagged(cohort: Path, **tags: Any) -> Path:
    """The cohort with these tags in all files; a sequence has a value for each patient."""
    for path in cohort.rglob("*.MR.*"):
        one = pydicom.dcmread(path)
        for name, value in tags.items():
            setattr(
                one, name, value if isinstance(value, str) else value[int(path.parent.name[-1])]
            )
        one.save_as(path)
    return cohort


@pytest.mark.parametrize("placeholder", ["ANONYMOUS", "", "000"])
def test_a_placeholder_does_not_make_one_person_of_several(cohort: Path, placeholder: str) -> None:
    retagged(cohort, PatientID=placeholder)
    with pytest.warns(MrbridgeWarning, match="4 studies have no PatientID, or a placeholder"):
        found = find_scans(cohort)
    assert Counter(scan.subject for scan in found.scans).most_common()[0][1] == 2
    assert len({scan.subject for scan in found.scans}) == 4


def test_one_identifier_of_several_people_is_reported(cohort: Path) -> None:
    born = ["", "19500101", "19500101", "19500101", "19610203"]
    retagged(cohort, PatientID="7", PatientBirthDate=born)
    with pytest.warns(MrbridgeWarning, match="1 PatientID with several birth dates"):
        found = find_scans(cohort)
    assert len({scan.subject for scan in found.scans}) == 1


def test_one_person_under_two_identifiers_is_reported(cohort: Path) -> None:
    names = ["", "Doe^Jane", "DOE^JANE^", "Doe^Jane", "Anonymous"]
    born = ["", "19500101", "19500101", "19610203", "19500101"]
    retagged(cohort, PatientName=names, PatientBirthDate=born)
    with pytest.warns(MrbridgeWarning, match="^1 name with one birth date and several") as caught:
        found = find_scans(cohort)
    assert len({scan.subject for scan in found.scans}) == 4
    assert not re.search("(?i)doe|jane", str(caught[0].message))


def test_the_case_of_an_identifier_makes_no_other_person(cohort: Path) -> None:
    """As within a series; else one person may be in several splits."""
    identifiers = ["", "mr-7", "MR-7", "Mr-7", "MR-8"]
    retagged(cohort, PatientID=identifiers, PatientBirthDate="")
    assert len({scan.subject for scan in find_scans(cohort).scans}) == 2


def test_files_left_out_are_reported(
    cohort: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = cohort / f"{NAME}3"
    (folder / f"{NAME}.pdf").write_text(NAME)
    for number, path in enumerate(sorted(folder.glob("*.MR.3.*"))[:2]):
        shutil.copy(path, folder / f"{NAME} ({number})")
    with pytest.raises(SystemExit) as ended:
        cli.main(["prepare", str(cohort), "-o", str(tmp_path_factory.mktemp("prepared") / "store")])
    assert ended.value.code == 0
    out, _ = capsys.readouterr()
    assert "4 files ignored" in out
    assert "2 ignored: is a copy of another file" in out
    assert "1 ignored: is not a DICOM file" in out
    assert re.search(r"1 ignored: 1 of 6 slices is missing", out)


def test_slices_are_those_of_the_volume(
    cohort: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = prepare(cohort, tmp_path_factory.mktemp("prepared") / "store")
    scan = io.read(cohort / f"{NAME}2", series="4")
    expected = preprocess(scan, PreprocessSettings())
    hashes = {record.grid_hash for record in store.manifest.records}
    assert slice_grid(scan, None).hash in hashes
    assert np.isfinite(expected.slices).all()


def test_running_again_does_nothing(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("prepared") / "store"
    prepare(cohort, out)
    before = {path: path.stat().st_mtime_ns for path in (out / "scans").rglob("*")}
    prepare(cohort, out)
    assert {path: path.stat().st_mtime_ns for path in (out / "scans").rglob("*")} == before


def test_each_series_is_searched_once(
    cohort: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: Counter[Path] = Counter()
    read = DicomFile.header_and_pixels

    def counted(self: DicomFile, tags: tuple[str, ...] | None) -> tuple[Dataset, Any]:
        opened[self.path] += 1
        return read(self, tags)

    monkeypatch.setattr(DicomFile, "header_and_pixels", counted)
    prepare(cohort, tmp_path_factory.mktemp("prepared") / "store")
    # For the listing, for its series' hash, and for its voxels, however many others there are; the
    # hash once more for the scan of the other contrast, which is cropped like it.
    assert max(opened.values()) == 4
    assert len(opened) == sum(path.is_file() for path in cohort.rglob("*"))


@pytest.mark.parametrize("packed", [False, True])
def test_a_scan_is_read_from_its_own_files(
    cohort: Path, tmp_path_factory: pytest.TempPathFactory, packed: bool
) -> None:
    source = cohort
    if packed:
        archive = tmp_path_factory.mktemp("packed") / "cohort"
        source = Path(shutil.make_archive(str(archive), "zip", cohort))
    for scan in find_scans(source).scans[::3]:
        whole = io.read(source, series=scan.series)
        found = io.read(source, series=scan.series, files=scan.files)
        assert len(scan.files) == SHAPE[2]
        assert np.array_equal(found.voxels, whole.voxels)
        assert np.array_equal(found.affine, whole.affine)
        known = series_sha256(source, scan.series, scan.files)
        assert known == series_sha256(source, scan.series)


def test_a_damaged_file_affects_only_its_folder(
    cohort: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    spoilt = min((cohort / f"{NAME}2").iterdir())
    spoilt.write_bytes(spoilt.read_bytes()[:300])
    out = tmp_path_factory.mktemp("prepared") / "store"
    # One series lacks a slice now, and the other cannot know that the slice was not its own.
    with pytest.raises(SomeScansFailed, match="1 of 7 scans failed"):
        prepare(cohort, out)
    subjects = Counter(record.subject for record in Store.open(out).manifest.records)
    assert sorted(subjects.values()) == [2, 2, 2]


def test_a_damaged_file_in_a_folder_of_its_own_may_belong_to_any_series(cohort: Path) -> None:
    (cohort / "lost").mkdir()
    spoilt = next((cohort / f"{NAME}2").iterdir())
    (cohort / "lost" / "IM1").write_bytes(spoilt.read_bytes()[:300])
    for scan in find_scans(cohort).scans:
        with pytest.raises(InputError, match="does not state what it is"):
            io.read(cohort, series=scan.series, files=scan.files)


def test_a_missing_file_is_noticed(cohort: Path) -> None:
    scan = find_scans(cohort).scans[0]
    (cohort / scan.files[3]).unlink()
    with pytest.raises(InputError, match="is gone"):
        io.read(cohort, series=scan.series, files=scan.files)
