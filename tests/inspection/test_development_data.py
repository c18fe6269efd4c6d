"""What a researcher who looked at them would say of five real data sets, and no false alarm."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mrbridge.inspection.finding import Finding
from mrbridge.inspection.inspect import Inspection, inspect_images

pytestmark = pytest.mark.filterwarnings("ignore::mrbridge.errors.MrbridgeWarning")

FoundIn = Callable[[str], tuple[Inspection, dict[str, Finding]]]


@pytest.fixture
def found_in(real_data: Callable[[str], Path]) -> FoundIn:
    def find(name: str) -> tuple[Inspection, dict[str, Finding]]:
        found = inspect_images(real_data(name))
        return found, {finding.kind: finding for finding in found.findings}

    return find


def test_seed_png_is_paired_in_hiding(found_in: FoundIn) -> None:
    found, findings = found_in("seed-png")
    assert found.headline.startswith("Fit to train on, but not as unpaired data")
    pairs = [
        tuple(int(re.findall(r"#(\d+)", name)[0]) for name in group.names)
        for group in findings["hidden pairs"].groups
    ]
    assert len(pairs) == 43
    assert all(target == source + (60 if source <= 40 else 70) for source, target in pairs)
    assert findings["hidden pairs"].remedy.startswith("Call the data paired")
    assert set(findings) == {"hidden pairs", "images that are nearly equal", "unequal counts"}


def test_ixi_slices_hold_two_pairs_and_a_near_copy(found_in: FoundIn) -> None:
    found, findings = found_in("ixi-slices")
    assert found.headline == "Fit to train on, with remarks"
    assert {group.names for group in findings["hidden pairs"].groups} == {
        ("T1/slice-06.png", "T2/slice-05.png"),
        ("T1/slice-24.png", "T2/slice-06.png"),
    }
    assert findings["hidden pairs"].remedy.startswith("Tell of them")
    (near,) = findings["images that are nearly equal"].groups
    assert near.names == ("T2/slice-11.png", "T2/slice-15.png")
    assert len(findings) == 2


@pytest.mark.slow
def test_nothing_is_wrong_with_the_patients(found_in: FoundIn) -> None:
    for name, told in (("open-ms-mni", "on one grid"), ("open-ms-raw", "on different grids")):
        found, findings = found_in(name)
        assert not findings
        assert told in found.verdict


@pytest.mark.slow
def test_a_study_that_lacks_slices_cannot_be_prepared(found_in: FoundIn) -> None:
    found, findings = found_in("adi-brain-dicom")
    assert found.headline == "Not fit to train on as it is"
    assert "no whole T1w or T2w series is left" in findings["incomplete series"].gist
    assert len(findings) == 1
