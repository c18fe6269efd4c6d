"""Which image is it: every row of docs/reference/contrasts.md, and the rules between the rows."""

from __future__ import annotations

from typing import Any

import pytest
from tests.contrasts.headers import HEADERS, MPRAGE, SPIN_ECHO, timed
from tests.contrasts.names import NAMES, OTHER
from tests.contrasts.page import PAGE, answer, page, series

from mrbridge.io.acquisition import of_series
from mrbridge.io.contrast import Identity, guess_contrast, of_path, of_text
from mrbridge.volume import CONTRASTS

NAMED = [(name, right) for names in NAMES.values() for name, right in names]
HEADED = [(tags, right) for headers in HEADERS.values() for right, tags in headers]


@pytest.mark.parametrize(("name", "right"), NAMED)
def test_name(name: str, right: str) -> None:
    found = of_path(name)
    assert answer(found) == right, found.reason
    assert found.reason
    assert guess_contrast(name) == (right if right in CONTRASTS else None)


@pytest.mark.parametrize(("tags", "right"), HEADED)
def test_header(tags: dict[str, Any], right: str) -> None:
    found = of_series(series(tags))
    assert answer(found) == right, found.reason
    assert found.reason


def test_the_page_is_what_the_rules_decide() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.contrasts.page"


@pytest.mark.parametrize(("name", "right"), NAMED)
def test_case_and_separators_do_not_matter(name: str, right: str) -> None:
    """Where words are apart; capitals say where words end, and prefixes of SPM are small."""
    if "_" not in name or "/" in name or name.startswith("sub-") or name != name.lower():
        return
    stem, suffix = name.split(".", 1)
    for other in (stem.upper(), stem.replace("_", "-"), stem.replace("_", " ")):
        assert answer(of_path(f"{other}.{suffix}")) == right, other


@pytest.mark.parametrize("mask", ["mask", "seg", "labels", "lesions", "pve_0", "Warp", "bias"])
@pytest.mark.parametrize("contrast", ["T1", "T1w", "t2", "FLAIR", "T1_brain", "sub-01_T1w"])
def test_what_is_made_of_a_scan_is_something_else(contrast: str, mask: str) -> None:
    assert answer(of_path(f"{contrast}_{mask}.nii.gz")) == OTHER


def test_a_description_that_contradicts_the_timing_makes_doubtful() -> None:
    found = of_series(series(timed("SE", 95, 6000, "T1 sagittal")))
    assert found.contrast == "T2w"
    assert found.is_doubtful
    assert "its description says T1w" in found.reason
    assert not of_series(series(MPRAGE)).is_doubtful


def test_times_in_seconds_do_not_make_t1w() -> None:
    assert of_series(series(timed("SE", 0.095, 6, "head"))).is_unknown
    found = of_series(series(timed("SE", 0.095, 6, "T2 tse")))
    assert found.contrast == "T2w"
    assert "its timing does not tell" in found.reason


def test_a_gradient_echo_that_nothing_calls_t1w_is_doubtful() -> None:
    found = of_series(series(timed("GR", 4.6, 25, "3D head", FlipAngle=30)))
    assert found.contrast == "T1w"
    assert found.is_doubtful


def test_echoes_of_a_gradient_echo_are_a_field_map() -> None:
    slices = [
        series(timed("GR", echo, 488, "head", FlipAngle=60, SequenceVariant="SP"))[0]
        for echo in (4.92, 7.38)
    ]
    assert of_series(slices).kind == "calibration"
    assert of_series(slices[:1]).contrast == "T1w"


@pytest.mark.parametrize("value", ["", None, 0, -1])
def test_impossible_times(value: float | str | None) -> None:
    found = of_series(series(timed("SE", 95, 6000, "T2") | {"EchoTime": value}))
    assert found == Identity("T2w", "by its description; its timing does not tell")


def test_an_agent_in_a_coded_sequence() -> None:
    from pydicom.dataset import Dataset

    code = Dataset()
    code.CodeMeaning = "Gadolinium"
    tags = SPIN_ECHO | {"ContrastBolusAgentSequence": [code]}
    assert of_series(series(tags)).kind == "agent"


def test_an_identity_is_one_of_three() -> None:
    with pytest.raises(ValueError, match="not something else"):
        Identity("T1w", "both", kind="mask")
    assert Identity().is_unknown


def test_long_names_take_no_time() -> None:
    assert of_text("t1" * 5000).contrast is None
    assert of_text("_".join(["mask"] * 5000)).is_other
