"""Means over subjects and the verdict, by hand."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest

from mrbridge.evaluation import summary
from mrbridge.evaluation.cases import Case, Direction
from mrbridge.evaluation.result import Evaluation, Scored, Verdict, finite
from mrbridge.evaluation.scoring import Result

THERE = Direction("T1w", "T2w")


def scored(
    name: str,
    model: tuple[float, float],
    baseline: tuple[float, float] | None = (20.0, 0.8),
    subject: str | None = None,
) -> Scored:
    """A case with (PSNR, SSIM) of model and monotone baseline."""
    methods = {"model": model} | ({} if baseline is None else {"floor": baseline})
    scores = {
        method: {kind: {"psnr": v[0], "ssim": v[1], "mae": 0.1} for kind in ("fit", "plain")}
        for method, v in methods.items()
    }
    return Scored(Case(name, subject or name, {}), {THERE.key: Result(scores=scores)}, "others")


def verdict(*cases: Scored) -> Verdict:
    return summary.judge(cases, THERE, summary.summarise(cases))


def evaluation(**values) -> Evaluation:
    """An evaluation with these values, and None for the others."""
    return Evaluation(**{field.name: None for field in fields(Evaluation)} | values)


class TestSummary:
    def test_mean_and_sample_deviation(self):
        means = summary.summarise([scored("a", (20, 0.5)), scored("b", (24, 0.7))])
        psnr = means[THERE.key]["model"]["fit"]["psnr"]
        assert psnr == {"mean": 22, "std": pytest.approx(math.sqrt(8)), "n": 2}

    def test_sessions_become_one_subject_first(self):
        cases = [
            scored("a1", (10, 0.5), subject="a"),
            scored("a2", (20, 0.5), subject="a"),
            scored("b", (30, 0.5)),
        ]
        psnr = summary.summarise(cases)[THERE.key]["model"]["fit"]["psnr"]
        assert (psnr["mean"], psnr["n"]) == (22.5, 2)

    def test_infinite_scores_become_null_only_when_written(self):
        means = summary.summarise([scored("a", (math.inf, 1)), scored("b", (30, 1))])
        psnr = means[THERE.key]["model"]["fit"]["psnr"]
        assert psnr["mean"] == math.inf
        assert finite(means)[THERE.key]["model"]["fit"]["psnr"]["mean"] is None

    def test_finite_is_recursive(self):
        values = {"a": [math.nan, np.float32(2), (1, math.inf)], 3: "x"}
        assert finite(values) == {"a": [None, 2.0, [1, None]], "3": "x"}

    def test_one_csv_line_for_each_score(self):
        lines = evaluation(cases=[scored("a,b", (20, 0.5))]).as_csv().splitlines()
        assert lines[0] == (
            "case,subject,direction,method,kind,psnr,ssim,mae,floor_fitted_on,"
            "registered,displacement_mm,residual_mm"
        )
        assert lines[1] == '"a,b","a,b",T1w_to_T2w,model,fit,20,0.5,0.1,,no,,'
        assert lines[3] == '"a,b","a,b",T1w_to_T2w,floor,fit,20,0.8,0.1,others,no,,'
        assert len(lines) == 5


class TestVerdict:
    @pytest.mark.parametrize(
        ("model", "outcome", "words"),
        [
            ((22.0, 0.9), "better", "beats the monotone baseline by 2.00 dB PSNR and 0.100 SSIM"),
            (
                (19.0, 0.7),
                "worse",
                "does not beat the monotone baseline: it is 1.00 dB PSNR and 0.100 SSIM",
            ),
            ((20.0, 0.8), "worse", "does not beat"),
            (
                (21.0, 0.7),
                "mixed",
                "1.00 dB PSNR above the monotone baseline, but 0.100 SSIM below it",
            ),
            (
                (19.0, 0.9),
                "mixed",
                "1.00 dB PSNR below the monotone baseline, but 0.100 SSIM above it",
            ),
        ],
    )
    def test_outcomes(self, model, outcome, words):
        found = verdict(scored("a", model))
        assert found.outcome == outcome
        assert words in found.text
        assert "(1 case)" in found.text

    def test_counts_the_wins(self):
        found = verdict(scored("a", (30, 0.9)), scored("b", (19, 0.9)), scored("c", (21, 0.9)))
        assert "3 cases, higher PSNR in 2 of 3" in found.text
        assert "3.33 dB" in found.text

    def test_no_verdict_without_baseline_or_pairs(self):
        assert verdict(scored("a", (30, 0.9), baseline=None)).outcome == "unknown"
        single = Scored(Case("a", "a", {}), {THERE.key: Result()})
        assert verdict(single).outcome == "unknown"
        assert "no pairs" in verdict(single).text


class TestWasserstein:
    def test_without_pairs_the_inputs_of_the_other_direction_are_the_reference(self):
        rng = np.random.default_rng(0)
        t1w, t2w = (rng.random((3, 32, 32), np.float32) for _ in range(2))
        back = Direction("T2w", "T1w")
        cases = [
            Scored(Case("a", "a", {}), {THERE.key: Result(samples={"model": t2w, "copy": t1w})}),
            Scored(Case("b", "b", {}), {back.key: Result(samples={"model": t2w, "copy": t2w})}),
        ]
        found = summary.wasserstein(cases, [THERE, back], seed=0)
        assert found[THERE.key]["model"] == 0
        assert found[THERE.key]["copy"] > 0
        assert found[back.key]["model"] == found[back.key]["copy"] > 0

    def test_images_that_are_too_small_are_left_out(self):
        small = np.ones((2, 8, 8), np.float32)
        samples = {"model": small, "copy": small, "real": small}
        cases = [Scored(Case("a", "a", {}), {THERE.key: Result(samples=samples)})]
        assert summary.wasserstein(cases, [THERE], seed=0) == {}


def test_an_evaluation_in_a_notebook():
    cases = [scored("a", (30, 0.9))]
    means = finite(summary.summarise(cases))
    verdicts = (Verdict(THERE.key, "better", "<script>"),)
    result = evaluation(cases=cases, directions=[THERE], summary=means, verdicts=verdicts, uses=())
    html = result._repr_html_()
    assert "30.00" in html
    assert "&lt;script&gt;" in html
    assert "<script>" not in html
    assert repr(result) == "Evaluation of 1 case\n<script>"
