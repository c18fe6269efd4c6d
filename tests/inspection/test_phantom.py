"""Simulated subjects give no finding."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mrbridge.inspection.inspect import inspect
from mrbridge.phantom import PhantomSettings, write_bids


@pytest.mark.slow
def test_simulated_subjects(tmp_path: Path) -> None:
    write_bids(tmp_path / "bids", PhantomSettings(subjects=6, spacing_mm=2.0, seed=3))
    found = inspect(tmp_path / "bids", images=True)
    assert found.contrasts == {"T1w": 6, "T2w": 6}
    assert found.findings == []
    # After two names are swapped, only these scans are found.
    one, other = (tmp_path / f"bids/sub-02/anat/sub-02_{c}.nii.gz" for c in ("T1w", "T2w"))
    shutil.move(one, tmp_path / "kept.nii.gz")
    shutil.move(other, one)
    shutil.move(tmp_path / "kept.nii.gz", other)
    findings = inspect(tmp_path / "bids", images=True).findings
    doubted = next(f for f in findings if f.kind == "doubtful contrast labels")
    assert {g.names for g in doubted.groups} == {
        (f"sub-02/anat/{path.name}",) for path in (one, other)
    }
    named = {Path(name).name for f in findings for group in f.groups for name in group.names}
    assert named == {one.name, other.name}
