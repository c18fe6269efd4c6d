"""What synthetic scans may be used for, by the figures."""

from __future__ import annotations

import pytest

from mrbridge.evaluation.summary import judge_uses

GOOD = {
    "registration_error_mm": 0.4,
    "registration_error_source_mm": 0.3,
    **{f"dice_{tissue}": 0.9 for tissue in ("fluid", "grey", "white")},
    **{f"volume_bias_{tissue}_percent": 2.0 for tissue in ("fluid", "grey", "white")},
    "invented_lesions": 0.5,
    "sharpness": 0.95,
    "power_ratio_0_25": 1.0,
    "power_ratio_75_100": 0.7,
    "coverage": 0.9,
    "auroc_worst_5_percent": 0.9,
}
KEPT = {"clear": {"kept": 18, "weakened": 1, "lost": 0, "inverted": 0}}


def answers(values=GOOD, counts=KEPT, outcome="better", **more):
    means = {key: {"mean": value} for key, value in values.items()}
    table = counts and {
        visibility: {name: {"number": number, "ml": 0.1} for name, number in row.items()}
        for visibility, row in counts.items()
    }
    return {use.use: use.answer for use in judge_uses("x", outcome, means, table, **more)}


def test_good_figures_allow_everything_that_was_measured():
    assert set(answers().values()) == {"yes"}


@pytest.mark.parametrize(
    ("key", "value", "use"),
    [
        ("registration_error_mm", 1.2, "registration"),
        ("registration_error_mm", 0.85, "registration"),
        ("registration_error_mm", float("inf"), "registration"),
        ("dice_grey", 0.8, "tissue_volumes"),
        ("volume_bias_white_percent", -7.0, "tissue_volumes"),
        ("invented_lesions", 1.5, "lesions_clear"),
        ("sharpness", 0.6, "fine_detail"),
        ("sharpness", 1.6, "fine_detail"),
        ("power_ratio_75_100", 0.3, "fine_detail"),
        ("coverage", 0.7, "uncertainty_map"),
        ("coverage", 0.99, "uncertainty_map"),
        ("auroc_worst_5_percent", 0.8, "uncertainty_map"),
    ],
)
def test_one_bad_figure_forbids_one_use(key, value, use):
    changed = answers(GOOD | {key: value})
    assert {name for name, answer in changed.items() if answer == "no"} == {use}


def test_what_was_not_measured_is_unknown():
    few = answers({"sharpness": 1.0}, None, "unknown")
    assert set(few.values()) == {"unknown"}
    assert "uncertainty_map" not in few


def test_lesions_by_how_the_source_shows_them():
    hidden = {"hidden": {"kept": 1, "weakened": 4, "lost": 9, "inverted": 0}}
    both = answers(counts=KEPT | hidden)
    assert both["lesions_clear"] == "yes"
    assert both["lesions_faint_or_hidden"] == "no"


def test_few_lesions_prove_nothing_good_but_something_bad():
    few = {"clear": {"kept": 3, "weakened": 0, "lost": 0, "inverted": 0}}
    assert answers(counts=few)["lesions_clear"] == "unknown"
    bad = {"clear": {"kept": 1, "weakened": 2, "lost": 0, "inverted": 0}}
    assert answers(counts=bad)["lesions_clear"] == "no"


def test_a_baseline_that_saw_the_answer_does_not_condemn():
    assert answers(outcome="worse")["appearance"] == "no"
    assert answers(outcome="worse", flattered=True)["appearance"] == "unknown"
    assert answers(outcome="better", flattered=True)["appearance"] == "yes"
