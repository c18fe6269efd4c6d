"""From the scores of cases to means over subjects and a verdict in words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from mrbridge import metrics
from mrbridge.errors import InputError
from mrbridge.evaluation.cases import Direction
from mrbridge.evaluation.lesions import Lesion, count
from mrbridge.evaluation.result import MEASURES, METHODS, Outcome, Scored, Verdict
from mrbridge.evaluation.scoring import DOUBTS
from mrbridge.evaluation.tissues import limits_of_agreement
from mrbridge.reports import counted

_NAMED = 4  # cases, in a remark
_Key = TypeVar("_Key")


def summarise(
    cases: Sequence[Scored], of: Literal["scores", "cycle"] = "scores"
) -> dict[str, dict[str, Any]]:
    """Mean and standard deviation over subjects: direction, method, kind, measure.

    Several cases of one subject (sessions) are averaged first. The standard deviation is that of
    the sample (n - 1); None for a single subject. The methods of a cycle are `cycle` and `noisy`.
    """
    result: dict[str, dict[str, Any]] = {}
    for (direction, method, kind, measure), values in _scores(cases, of).items():
        at = result.setdefault(direction, {}).setdefault(method, {}).setdefault(kind, {})
        at[measure] = _mean_and_std(list(values.values()))
    return result


def summarise_measures(cases: Sequence[Scored]) -> dict[str, dict[str, Any]]:
    """Mean and standard deviation over subjects of the measures: direction, key."""
    result: dict[str, dict[str, Any]] = defaultdict(dict)
    for (direction, key), values in _measures(cases).items():
        result[direction][key] = _mean_and_std(list(values.values()))
    return result


def agreement(cases: Sequence[Scored]) -> dict[str, dict[str, Any]]:
    """Limits of agreement of the tissue volumes over subjects: direction, key."""
    result: dict[str, dict[str, Any]] = defaultdict(dict)
    for (direction, key), values in _measures(cases).items():
        of_direction = result[direction]
        if key.startswith("volume_bias_"):
            of_direction[key] = limits_of_agreement(list(values.values()))
    return result


def lesion_counts(cases: Sequence[Scored]) -> dict[str, dict[str, Any]]:
    """Numbers and volumes of lesions over the cases with a lesion mask: direction, visibility."""
    found: dict[str, list[Lesion]] = defaultdict(list)
    for one in cases:
        for key, result in one.results.items():
            if result.measured.has_mask:
                found[key] += result.measured.lesions or []
    return {key: count(of_direction) for key, of_direction in found.items()}


def lesions_left_out(cases: Sequence[Scored]) -> list[str]:
    """How many lesions of the masks are in no score, and why: a sentence for each number."""
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    measured: Counter[str] = Counter()
    for one in cases:
        for key, result in one.results.items():
            reasons[key].update(result.measured.lesions_left_out)
            found = result.measured.lesions or []
            measured[key] += sum(lesion.outcome != "invented" for lesion in found)
    directions: dict[str, list[str]] = defaultdict(list)
    for key, why in reasons.items():
        total = counted(why.total() + measured[key], "lesion")
        parts = " and ".join(f"{number} {reason}" for reason, number in sorted(why.items()))
        if why:
            text = f"{why.total()} of {total} in the masks are not measured: {parts}."
            directions[text].append(key)
    return [f"{' and '.join(keys)}: {text}" for text, keys in directions.items()]


def doubts(cases: Sequence[Scored]) -> list[str]:
    """A sentence on each doubt whether the images of cases belong together; none if all do."""
    remarks = []
    for doubt, (what, meaning) in DOUBTS.items():
        found = [
            one.case.name
            for one in cases
            if any(doubt in result.doubts for result in one.results.values())
        ]
        if found:
            named = ", ".join(found[:_NAMED]) + (", …" if len(found) > _NAMED else "")
            remarks.append(
                f"In {counted(len(found), 'case')} ({named}), {what}: {meaning}. Check which files "
                "belong together."
            )
    return remarks


def wasserstein(
    cases: Sequence[Scored], directions: Iterable[Direction], seed: int
) -> dict[str, dict[str, float]]:
    """Sliced Wasserstein distance of each method's images from the real scans, by direction.

    `real` is the distance between two halves of the real scans (every other case), if there are
    several cases: the distance of images that cannot be distinguished from real ones. Directions
    whose images are too small are left out.
    """
    result: dict[str, dict[str, float]] = {}
    for direction in directions:
        back = f"{direction.target}_to_{direction.source}"
        samples = [
            one.results[direction.key].samples for one in cases if direction.key in one.results
        ]
        # Without pairs, the real scans of the target contrast are the inputs of the way back.
        real = [of_one["real"] for of_one in samples if "real" in of_one] or [
            one.results[back].samples["copy"] for one in cases if back in one.results
        ]
        sets = {m: [of_one[m] for of_one in samples if m in of_one] for m in METHODS}
        try:
            distances = {
                method: metrics.sliced_wasserstein(real, stacks, seed=seed)
                for method, stacks in sets.items()
                if stacks
            }
            if len(real) > 1:
                distances["real"] = metrics.sliced_wasserstein(real[::2], real[1::2], seed=seed)
        except InputError:
            continue
        result[direction.key] = distances
    return result


def judge(cases: Sequence[Scored], direction: Direction, summary: Mapping[str, Any]) -> Verdict:
    """Whether the model is better than the monotone baseline in this direction, and by how much."""
    key, label = direction.key, direction.label
    if key not in summary:
        text = "there are no pairs, so these results do not show how accurate the synthesis is."
        return Verdict(key, "unknown", f"{label}: {text}")
    mean = {m: summary[key]["model"]["fit"][m]["mean"] for m in MEASURES}
    scores = f"PSNR {mean['psnr']:.1f} dB, SSIM {mean['ssim']:.3f}"
    if "floor" not in summary[key]:
        text = "without the input scans there is no monotone baseline to compare with."
        return Verdict(key, "unknown", f"{label}: {scores}; {text}")
    of_subjects = _scores(cases)
    gains = {}
    for measure in ("psnr", "ssim"):
        model, baseline = (of_subjects[key, m, "fit", measure] for m in ("model", "floor"))
        pairs = [(model[subject], baseline[subject]) for subject in model]
        # Infinite scores of equal images may be equal, too.
        gains[measure] = np.array([0.0 if one == other else one - other for one, other in pairs])
    psnr, ssim = (float(gains[measure].mean()) for measure in ("psnr", "ssim"))
    amount = f"{abs(psnr):.2f} dB PSNR and {abs(ssim):.3f} SSIM"
    outcome: Outcome
    if psnr > 0 and ssim > 0:
        outcome, comparison = "better", f"the model beats the monotone baseline by {amount}"
    elif psnr <= 0 and ssim <= 0:
        outcome = "worse"
        comparison = f"the model does not beat the monotone baseline: it is {amount} below it"
    else:
        outcome = "mixed"
        first, second = ("above", "below") if psnr > 0 else ("below", "above")
        comparison = (
            f"the model is {abs(psnr):.2f} dB PSNR {first} the monotone baseline, "
            f"but {abs(ssim):.3f} SSIM {second} it"
        )
    noun = "case" if all(one.case.subject == one.case.name for one in cases) else "subject"
    subjects = len(gains["psnr"])
    extent = counted(subjects, noun)
    if subjects > 1:
        extent += f", higher PSNR in {int((gains['psnr'] > 0).sum())} of {subjects}"
    text = f"{label}: {comparison} ({extent}). Scores of the model: {scores}."
    if any(one.baseline_on == "itself" for one in cases):
        text += (
            " The baseline was fitted to the scans that it is scored on, which inflates its scores."
        )
    return Verdict(key, outcome, text)


def _scores(
    cases: Sequence[Scored], of: Literal["scores", "cycle"] = "scores"
) -> dict[tuple[str, str, str, str], dict[str, float]]:
    """By direction, method, kind and measure, the scores of the subjects."""
    return _by_subject(
        ((direction, method, kind, measure), one.case.subject, value)
        for one in cases
        for direction, result in one.results.items()
        for method, kinds in getattr(result, of).items()
        for kind, measures in kinds.items()
        for measure, value in measures.items()
    )


def _measures(cases: Sequence[Scored]) -> dict[tuple[str, str], dict[str, float]]:
    """By direction and key, the measures of the subjects."""
    return _by_subject(
        ((direction, key), one.case.subject, value)
        for one in cases
        for direction, result in one.results.items()
        for key, value in result.measured.values.items()
    )


def _by_subject(values: Iterable[tuple[_Key, str, float]]) -> dict[_Key, dict[str, float]]:
    """Values (key, subject, value) by key and subject; several cases of a subject are averaged."""
    groups: dict[_Key, dict[str, list[float]]] = {}
    for key, subject, value in values:
        groups.setdefault(key, defaultdict(list))[subject].append(value)
    return {
        key: {subject: float(np.mean(several)) for subject, several in of_key.items()}
        for key, of_key in groups.items()
    }


def _mean_and_std(values: Sequence[float]) -> dict[str, float | int | None]:
    array = np.array(values)
    has_std = len(array) > 1 and bool(np.isfinite(array).all())
    std = float(array.std(ddof=1)) if has_std else None
    return {"mean": float(array.mean()), "std": std, "n": len(array)}
