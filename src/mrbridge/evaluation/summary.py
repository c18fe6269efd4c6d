"""From the scores of cases to means over subjects, and to a verdict in words."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mrbridge import metrics
from mrbridge.errors import InputError
from mrbridge.evaluation.cases import Case, Direction
from mrbridge.evaluation.placing import Placement
from mrbridge.evaluation.scoring import Found
from mrbridge.metrics import Scores

METHODS = ("model", "floor", "copy")
KINDS = ("fit", "plain")
MEASURES = ("psnr", "ssim", "mae")

Outcome = Literal["better", "mixed", "worse", "unknown"]


@dataclass(frozen=True)
class Scored:
    """A case with what it gave, by direction key; `floor_on`: "others", "itself" or None;
    `placement`: how its scans were brought onto one grid, if they did not lie on one."""

    case: Case
    found: dict[str, Found]
    floor_on: str | None = None
    placement: Placement | None = None


@dataclass(frozen=True)
class Verdict:
    """What the scores of one direction mean, in words."""

    direction: str
    outcome: Outcome
    text: str


def summarise(scored: Sequence[Scored]) -> dict[str, dict[str, Any]]:
    """Mean and standard deviation over subjects: direction, method, kind, measure.

    Several cases of one subject (sessions) first become their mean. The standard deviation is that
    of the sample (n - 1); None for a single subject.
    """
    result: dict[str, dict[str, Any]] = {}
    for key in _keys(scored):
        methods = [method for method in METHODS if _table(scored, key, method)]
        if methods:
            result[key] = {method: _nested(_table(scored, key, method)) for method in methods}
    return result


def summarise_cycles(scored: Sequence[Scored]) -> dict[str, dict[str, Any]]:
    """As `summarise`, of the way there and back: direction, `cycle` or `noisy`, kind, measure."""
    result = {}
    for key in _keys(scored):
        there = [(one.case, one.found[key].cycle) for one in scored if key in one.found]
        tables = {
            name: _by_subject((case, cycle.get(name)) for case, cycle in there)
            for name in ("cycle", "noisy")
        }
        if tables["cycle"]:
            result[key] = {name: _nested(table) for name, table in tables.items()}
    return result


def wasserstein(
    scored: Sequence[Scored], directions: Iterable[Direction], seed: int
) -> dict[str, dict[str, float]]:
    """Sliced Wasserstein distance of each method's images from the true scans, by direction.

    `real` is the distance between two halves of the true scans (every other case), where there are
    several cases: what a perfect method could not be told from. Directions whose pictures are too
    small are left out.
    """
    result: dict[str, dict[str, float]] = {}
    for direction in directions:
        back = f"{direction.target}_to_{direction.source}"
        looks = [s.found[direction.key].looks for s in scored if direction.key in s.found]
        reals = [look["real"] for look in looks if "real" in look]
        # Without pairs, the true scans of the target contrast are the inputs of the way back.
        reals = reals or [s.found[back].looks["copy"] for s in scored if back in s.found]
        sets = {m: [look[m] for look in looks if m in look] for m in METHODS}
        try:
            distances = {
                method: metrics.sliced_wasserstein(reals, stacks, seed=seed)
                for method, stacks in sets.items()
                if stacks
            }
            if len(reals) > 1:
                distances["real"] = metrics.sliced_wasserstein(reals[::2], reals[1::2], seed=seed)
        except InputError:
            continue
        result[direction.key] = distances
    return result


def judge(scored: Sequence[Scored], direction: Direction, summary: Mapping[str, Any]) -> Verdict:
    """Does the model beat the floor in this direction, and by how much."""
    key = direction.key
    if key not in summary:
        text = "there are no pairs, so nothing here tells how right the syntheses are."
        return Verdict(key, "unknown", f"{direction.label}: {text}")
    model = summary[key]["model"]["fit"]
    says = f"PSNR {_mean(model, 'psnr'):.1f} dB, SSIM {_mean(model, 'ssim'):.3f}"
    if "floor" not in summary[key]:
        text = "without the input scans there is no floor to compare with."
        return Verdict(key, "unknown", f"{direction.label}: {says}; {text}")
    ours, floor = (_table(scored, key, method) for method in ("model", "floor"))
    gains = {
        measure: np.array([ours[s]["fit"][measure] - floor[s]["fit"][measure] for s in ours])
        for measure in ("psnr", "ssim")
    }
    psnr, ssim = (float(gains[measure].mean()) for measure in ("psnr", "ssim"))
    wins = f"{int((gains['psnr'] > 0).sum())} of {len(ours)}"
    noun = "case" if all(s.case.subject == s.case.name for s in scored) else "subject"
    over = f"1 {noun}" if len(ours) == 1 else f"{len(ours)} {noun}s, higher PSNR in {wins}"
    amount = f"{abs(psnr):.2f} dB PSNR and {abs(ssim):.3f} SSIM"
    outcome: Outcome
    if psnr > 0 and ssim > 0:
        outcome, words = "better", f"the model beats the floor by {amount}"
    elif psnr <= 0 and ssim <= 0:
        outcome, words = "worse", f"the model does not beat the floor, it is {amount} below it"
    else:
        outcome = "mixed"
        signs = ("above", "below") if psnr > 0 else ("below", "above")
        words = (
            f"the model is {abs(psnr):.2f} dB PSNR {signs[0]} the floor, "
            f"but {abs(ssim):.3f} SSIM {signs[1]} it"
        )
    text = f"{direction.label}: {words} ({over}). The model has {says}."
    if any(s.floor_on == "itself" for s in scored):
        text += " The floor was fitted on the very scans that it is scored on, which flatters it."
    return Verdict(key, outcome, text)


def cell(text: str) -> str:
    """Text as a cell that no spreadsheet takes for a formula (OWASP, "CSV Injection")."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def score_table(scored: Sequence[Scored]) -> str:
    """The CSV: one line per case, direction, method and kind."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = ["case", "subject", "direction", "method", "kind"]
    registered = ["registered", "displacement_mm", "residual_mm"]
    writer.writerow([*keys, *MEASURES, "floor_fitted_on", *registered])
    for one in scored:
        ends = ["no", "", ""]
        if one.placement is not None:
            found_place = one.placement.found
            shown = (found_place.displacement_mm, found_place.residual_mm)
            ends = [found_place.kind, *(f"{value:.3f}" for value in shown)]
        for key, found in one.found.items():
            for method in METHODS:
                for kind, values in found.scores.get(method, {}).items():
                    numbers = [f"{values[measure]:.6g}" for measure in MEASURES]
                    fitted_on = one.floor_on if method == "floor" else ""
                    names = [cell(one.case.name), cell(one.case.subject), key, method, kind]
                    writer.writerow([*names, *numbers, fitted_on, *ends])
    return text.getvalue()


def finite(value: Any) -> Any:
    """Nested values as JSON can hold them: infinity and NaN become None."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value


def _keys(scored: Sequence[Scored]) -> list[str]:
    return list(dict.fromkeys(key for one in scored for key in one.found))


def _table(scored: Sequence[Scored], key: str, method: str) -> dict[str, Scores]:
    """The scores of one method in one direction by subject."""
    return _by_subject((s.case, s.found[key].scores.get(method)) for s in scored if key in s.found)


def _by_subject(pairs: Iterable[tuple[Case, Scores | None]]) -> dict[str, Scores]:
    groups: dict[str, list[Scores]] = defaultdict(list)
    for case, scores in pairs:
        if scores is not None:
            groups[case.subject].append(scores)
    return {
        subject: {
            kind: {m: float(np.mean([scores[kind][m] for scores in group])) for m in MEASURES}
            for kind in KINDS
        }
        for subject, group in groups.items()
    }


def _nested(table: Mapping[str, Scores]) -> dict[str, dict[str, dict[str, float | int | None]]]:
    def statistics(kind: str, measure: str) -> dict[str, float | int | None]:
        values = np.array([scores[kind][measure] for scores in table.values()])
        several = len(values) > 1 and bool(np.isfinite(values).all())
        std = float(values.std(ddof=1)) if several else None
        return {"mean": float(values.mean()), "std": std, "n": len(values)}

    return {kind: {m: statistics(kind, m) for m in MEASURES} for kind in KINDS}


def _mean(summary: Mapping[str, Any], measure: str) -> float:
    return float(summary[measure]["mean"])
