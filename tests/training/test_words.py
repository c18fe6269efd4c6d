"""The numbers of a training in words."""

from __future__ import annotations

import math

import pytest

from mrbridge.training import words

ROW = {"epoch": 3.0, "step": 30.0, "seconds": 75.0, "criterion": 1.0, "learning_rate": 1e-4}
SCORES = {"psnr_target": 22.345, "ssim_source": 0.81234, "swd_to_target": 0.5}
LOSSES = {"generators": 0.4321, "back_translation": 0.2, "source_critic": 0.7}


def test_names_have_directions_and_contrasts():
    columns = [*ROW, *SCORES, *LOSSES, "cycle_psnr_source", "cycle", "guard_verdict_to_target"]
    assert words.score_names(columns, "T1w", "T2w") == {
        "psnr_target": "PSNR T1w→T2w",
        "ssim_source": "SSIM T2w→T1w",
        "swd_to_target": "Wasserstein distance T1w→T2w",
        "cycle_psnr_source": "cycle PSNR T1w",
    }
    assert words.loss_names(columns, "T1w", "T2w") == {
        "generators": "generators, total",
        "back_translation": "back-translation",
        "source_critic": "critic of T1w",
        "cycle": "cycle",
    }


def test_an_epoch_in_one_line():
    line = words.epoch_line(ROW | SCORES | LOSSES, ("T1w", "T2w"), "epoch 2, 1 validation ago")
    assert line == (
        "epoch 3  1:15  PSNR T1w→T2w 22.34 dB; SSIM T2w→T1w 0.812; losses: generators, total "
        "0.432, back-translation 0.2, critic of T1w 0.7; best so far: epoch 2, 1 validation ago"
    )


def test_without_pairs_the_scores_that_need_none():
    columns = ["swd_to_target", "cycle_psnr_source", "cycle_ssim_source"]
    assert list(words.main_scores(columns, "T1w", "T2w")) == columns[:2]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([math.nan], ""),
        ([2.0], "▁"),
        ([0.0, 7.0], "▁█"),
        ([7.0, 0.0, math.inf, 3.5], "█▁▅"),
        ([5.0] * 3, "▁▁▁"),
    ],
)
def test_trends(values: list[float], line: str):
    assert words.sparkline(values) == line


def test_a_long_trend_shows_its_end():
    shown = words.sparkline([9.0] * 9 + list(range(24)))
    assert (len(shown), shown[0], shown[-1]) == (24, "▁", "█")
    assert list(shown) == sorted(shown)


def test_the_best_epoch_has_no_verdict_of_the_monitor():
    rows = [{"epoch": e, "criterion": c} for e, c in ((1, 2.0), (2, 5.0), (3, 3.0), (4, 3.0))]
    assert words.best_epoch(rows) == 2
    rows[1]["guard_verdict_to_source"] = 2
    assert words.best_epoch(rows) == 3
    assert words.best_epoch([{"epoch": 1}]) is None
