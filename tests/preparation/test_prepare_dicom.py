"""Preparing DICOM: a scan a series, subjects by pseudonym."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import generate_uid
from tests.studies import NAME, T1W, T2W, datasets, save

from mrbridge import io
from mrbridge.preparation.pipeline import prepare, standardise
from mrbridge.preparation.settings import StandardSettings
from mrbridge.volume import Volume


@pytest.fixture
def cohort(tmp_path: Path, make_scan: Callable[..., Volume]) -> Path:
    """Four patients with both contrasts; the first has a series that lacks a slice, too."""

    def add(patient: int, number: int, contrast: str, tags: dict[str, Any]) -> list[Path]:
        made = datasets(make_scan(patient, contrast), number, **tags)
        series = generate_uid(entropy_srcs=["cohort", str(patient), str(number)])
        for place, one in enumerate(made):
            one.PatientID, one.StudyInstanceUID = f"P{patient}", f"1.2.{patient}"
            one.SeriesInstanceUID, one.SOPInstanceUID = series, f"{series}.{place}"[:64]
        return save(tmp_path / f"{NAME}{patient}", made, prefix=f"IM{number}")

    for patient in range(1, 5):
        add(patient, 3, "T1w", T1W)
        add(patient, 4, "T2w", T2W)
    add(1, 5, "T1w", T1W)[6].unlink()
    return tmp_path


def test_a_cohort(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("prepared") / "store"
    store = prepare(cohort, out)
    records = store.manifest.records
    assert len(records) == 8
    by_subject: dict[str | None, set[str]] = {}
    for record in records:
        by_subject.setdefault(record.subject, set()).add(record.contrast)
    assert len(by_subject) == 4
    assert all(contrasts == {"T1w", "T2w"} for contrasts in by_subject.values())
    (left_out,) = store.manifest.ignored
    assert left_out.name == "series-5"
    assert "1 of 12 slices is missing" in left_out.reason
    told = (out / "manifest.json").read_text() + "".join(p.name for p in out.rglob("*"))
    for secret in (NAME.split("^")[0], "P1", "P2"):
        assert secret not in told


def test_slices_are_those_of_the_volume(
    cohort: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = prepare(cohort, tmp_path_factory.mktemp("prepared") / "store")
    scan = io.read(cohort / f"{NAME}2", series="4")
    expected = standardise(scan, StandardSettings())
    hashes = {record.grid_hash for record in store.manifest.records}
    assert expected.grid.hash in hashes
    assert np.isfinite(expected.slices).all()


def test_again_does_nothing(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("prepared") / "store"
    prepare(cohort, out)
    before = {path: path.stat().st_mtime_ns for path in (out / "scans").rglob("*")}
    prepare(cohort, out)
    assert {path: path.stat().st_mtime_ns for path in (out / "scans").rglob("*")} == before
