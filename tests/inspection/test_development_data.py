"""Five real datasets: the problems that a researcher would see, and no false alarm."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mrbridge.inspection.findings import Finding
from mrbridge.inspection.inspect import Inspection, inspect

pytestmark = pytest.mark.filterwarnings("ignore::mrbridge.errors.MrbridgeWarning")

FoundIn = Callable[[str], tuple[Inspection, dict[str, Finding]]]


@pytest.fixture
def found_in(real_data: Callable[[str], Path]) -> FoundIn:
    def find(name: str) -> tuple[Inspection, dict[str, Finding]]:
        found = inspect(real_data(name), images=True)
        return found, {finding.kind: finding for finding in found.findings}

    return find


def test_seed_png_has_undeclared_pairs(found_in: FoundIn) -> None:
    found, findings = found_in("seed-png")
    assert found.headline.startswith("Fit for training, but not as unpaired data")
    pairs = [
        tuple(int(re.findall(r"#(\d+)", name)[0]) for name in group.names)
        for group in findings["undeclared pairs"].groups
    ]
    assert len(pairs) == 43
    assert all(target == source + (60 if source <= 40 else 70) for source, target in pairs)
    assert findings["undeclared pairs"].remedy.startswith("Report the data as paired")
    assert set(findings) == {"undeclared pairs", "images that are nearly equal", "unequal counts"}


def test_ixi_slices_contain_two_pairs_and_a_near_duplicate(found_in: FoundIn) -> None:
    found, findings = found_in("ixi-slices")
    assert found.headline == "Fit for training, with remarks"
    assert {group.names for group in findings["undeclared pairs"].groups} == {
        ("T1/slice-06.png", "T2/slice-05.png"),
        ("T1/slice-24.png", "T2/slice-06.png"),
    }
    assert findings["undeclared pairs"].remedy.startswith("Disclose these pairs")
    (near,) = findings["images that are nearly equal"].groups
    assert near.names == ("T2/slice-11.png", "T2/slice-15.png")
    assert len(findings) == 2


@pytest.mark.nightly
def test_no_finding_in_the_patients(found_in: FoundIn) -> None:
    for name, words in (("open-ms-mni", "on one grid"), ("open-ms-raw", "on different grids")):
        found, findings = found_in(name)
        assert not findings
        assert words in found.verdict


@pytest.mark.slow
def test_a_study_with_missing_slices_cannot_be_prepared(found_in: FoundIn) -> None:
    found, findings = found_in("adi-brain-dicom")
    assert found.headline == "Not fit for training as it is"
    assert "no complete T1w or T2w series is left" in findings["incomplete series"].first_sentence
    assert len(findings) == 1
