"""What synthetic scans may be used for, from the figures of an evaluation.

Each rule has thresholds that the report states next to its answer. They are conventions, not
proofs: they hold for scans like those that were scored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Answer = Literal["yes", "no", "unknown"]
Means = Mapping[str, Mapping[str, Any]]
Counts = Mapping[str, Mapping[str, Mapping[str, float]]]

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


@dataclass(frozen=True)
class Use:
    """Whether a synthetic scan may be used for something.

    Attributes:
        direction: key of the direction, such as `T1w_to_T2w`.
        use: a stable key.
        purpose: the same in words, after "may be used for".
        answer: `yes`, `no`, or `unknown` if the evaluation does not show it.
        because: the figures.
        rule: the thresholds.
    """

    direction: str
    use: str
    purpose: str
    answer: Answer
    because: str
    rule: str


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
