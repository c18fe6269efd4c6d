"""From the scores of cases to means over subjects, verdicts, and what scans may be used for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from mrbridge import metrics
from mrbridge.errors import InputError
from mrbridge.evaluation.cases import Direction
from mrbridge.evaluation.lesions import Lesion, count
from mrbridge.evaluation.result import MEASURES, METHODS, Answer, Outcome, Scored, Use, Verdict
from mrbridge.evaluation.scoring import DOUBTS
from mrbridge.evaluation.tissues import limits_of_agreement
from mrbridge.reports import counted, some

_Key = TypeVar("_Key")
Means = Mapping[str, Mapping[str, Any]]
Counts = Mapping[str, Mapping[str, Mapping[str, float]]]

# For what synthetic scans may be used: conventions, not proofs, which hold for scans like those
# that were scored. The report states them next to each answer.
LEAST_KEPT, MOST_INVENTED = 0.9, 1.0
LEAST_LESIONS = 10
LEAST_DICE, MOST_BIAS_PERCENT = 0.85, 5.0
MOST_ERROR_MM, MOST_EXTRA_MM = 1.0, 0.5
SHARPNESS, LEAST_POWER = (0.8, 1.25), 0.5
COVERAGE, LEAST_AUROC = (0.8, 0.97), 0.85

_SHOWN = ("kept", "weakened", "lost", "inverted")  # outcomes of lesions that the real scan shows
_LESIONS = {  # by their visibility in the source: key, purpose
    ("clear",): ("lesions_clear", "lesions that the source scan shows clearly"),
    ("faint", "hidden"): (
        "lesions_faint_or_hidden",
        "lesions that the source scan shows faintly or not at all",
    ),
    ("unknown",): ("lesions", "finding or measuring lesions"),
}


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
            remarks.append(
                f"In {counted(len(found), 'case')} ({some(found)}), {what}: {meaning}. Check "
                "which files belong together."
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


def judge_uses(
    direction: str, outcome: str, means: Means, lesions: Counts | None, *, flattered: bool = False
) -> list[Use]:
    """The answers for one direction.

    Args:
        outcome: of the comparison with the monotone baseline (`better`, `mixed`, `worse`,
            `unknown`).
        means: over subjects, by measure: `mean`, `std`, `n`.
        lesions: from `lesions.count`; None without lesion masks.
        flattered: whether the baseline was fitted to the scans that it is scored on.
    """
    value = {key: one["mean"] for key, one in means.items()}
    answers = [
        _appearance(outcome, flattered),
        _registration(value),
        _volumes(value),
        *_lesions(value, lesions),
        _detail(value),
    ]
    if "coverage" in value:
        answers.append(_uncertainty(value))
    return [Use(direction, *answer) for answer in answers]


_Row = tuple[str, str, Answer, str, str]


def _appearance(outcome: str, flattered: bool) -> _Row:
    answers: dict[str, tuple[Answer, str]] = {
        "better": ("yes", "PSNR and SSIM are above those of the monotone baseline"),
        "mixed": ("no", "only one of PSNR and SSIM is above that of the monotone baseline"),
        "worse": ("no", "PSNR and SSIM are not above those of the monotone baseline"),
    }
    other: tuple[Answer, str] = "unknown", "there is no monotone baseline to compare with"
    row = "appearance", "showing anatomy with the look of this contrast"
    if flattered and outcome in ("mixed", "worse"):
        other = "unknown", "the baseline was fitted to the scan that it is scored on"
        answers = {}
    return *row, *answers.get(outcome, other), "PSNR and SSIM above the monotone baseline"


def _registration(value: Mapping[str, Any]) -> _Row:
    rule = (
        f"mean error at most {MOST_ERROR_MM:g} mm, and at most {MOST_EXTRA_MM:g} mm more than with "
        "the source"
    )
    row = "registration", "rigid registration to scans of the real contrast"
    if "registration_error_mm" not in value:
        return *row, "unknown", "not measured (--registration-error)", rule
    error, of_source = value["registration_error_mm"], value.get("registration_error_source_mm")
    most = MOST_ERROR_MM if of_source is None else min(MOST_ERROR_MM, of_source + MOST_EXTRA_MM)
    because = f"error {error:.2f} mm"
    because += "" if of_source is None else f", with the source {of_source:.2f} mm"
    return *row, "yes" if error <= most else "no", because, rule


def _volumes(value: Mapping[str, Any]) -> _Row:
    rule = (
        f"Dice at least {LEAST_DICE:g} and mean bias at most {MOST_BIAS_PERCENT:g} % in fluid, "
        "grey and white matter"
    )
    row = "tissue_volumes", "volumes of fluid, grey and white matter"
    if "dice_grey" not in value:
        return *row, "unknown", "tissues were not measured", rule
    tissues = ("fluid", "grey", "white")
    dices = [value[f"dice_{tissue}"] for tissue in tissues]
    biases = [value[f"volume_bias_{tissue}_percent"] for tissue in tissues]
    good = min(dices) >= LEAST_DICE and max(map(abs, biases)) <= MOST_BIAS_PERCENT
    because = "; ".join(
        f"{tissue} Dice {dice:.2f}, bias {bias:+.0f} %"
        for tissue, dice, bias in zip(tissues, dices, biases, strict=True)
    ).replace("-", "−")
    return *row, "yes" if good else "no", because, rule


def _lesions(value: Mapping[str, Any], counts: Counts | None) -> list[_Row]:
    rule = (
        f"at least {LEAST_KEPT:.0%} of the lesions that the real scan shows are kept "
        f"(of at least {LEAST_LESIONS}), at most {MOST_INVENTED:g} invented per case"
    )
    if counts is None:
        because = "no lesion mask was given (--lesions)"
        return [("lesions", "finding or measuring lesions", "unknown", because, rule)]
    rows: list[_Row] = []
    for visibilities, (use, purpose) in _LESIONS.items():
        found = [counts[visibility] for visibility in visibilities if visibility in counts]
        shown = sum(int(row[outcome]["number"]) for row in found for outcome in _SHOWN)
        kept = sum(int(row["kept"]["number"]) for row in found)
        if not shown:
            if use == "lesions_clear" and "unknown" not in counts:
                rows.append((use, purpose, "unknown", "there is no such lesion", rule))
            continue
        invented = value.get("invented_lesions")
        because = f"{kept} of {shown} kept"
        because += "" if invented is None else f", {invented:.1f} invented per case"
        good = kept >= LEAST_KEPT * shown and (invented is None or invented <= MOST_INVENTED)
        answer: Answer = "yes" if good else "no"
        if good and shown < LEAST_LESIONS:
            answer, because = "unknown", f"{because}: too few to tell"
        rows.append((use, purpose, answer, because, rule))
    return rows


def _detail(value: Mapping[str, Any]) -> _Row:
    low, high = SHARPNESS
    rule = f"sharpness {low:g} to {high:g}, power at least {LEAST_POWER:g} in every band"
    row = "fine_detail", "fine detail, such as texture or cortical thickness"
    powers = [one for key, one in value.items() if key.startswith("power_ratio_")]
    if "sharpness" not in value or not powers:
        return *row, "unknown", "not measured", rule
    good = low <= value["sharpness"] <= high and min(powers) >= LEAST_POWER
    because = f"sharpness {value['sharpness']:.2f}, least power {min(powers):.2f}"
    return *row, "yes" if good else "no", because, rule


def _uncertainty(value: Mapping[str, Any]) -> _Row:
    low, high = COVERAGE
    rule = f"coverage {low:.0%} to {high:.0%}, AUROC at least {LEAST_AUROC:g}"
    coverage, auroc = value["coverage"], value.get("auroc_worst_5_percent")
    good = low <= coverage <= high and auroc is not None and auroc >= LEAST_AUROC
    because = f"coverage {coverage:.0%}" + ("" if auroc is None else f", AUROC {auroc:.2f}")
    purpose = "judging which voxels to believe, by its uncertainty map"
    return "uncertainty_map", purpose, "yes" if good else "no", because, rule


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
