"""The analysis of a reader study: accuracy, agreement, quality, detection of lesions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from mrbridge import __version__
from mrbridge.errors import InputError
from mrbridge.io.atomic import write_json, write_text
from mrbridge.io.ownership import must_be_ours
from mrbridge.reports import render
from mrbridge.study.answers import ORIGIN, QUALITY, read_answers
from mrbridge.study.design import Study

_RESAMPLES = 2000
_LEVEL = 0.95

Answers = dict[tuple[str, str], dict[str, str]]
"""(scan, question) to the answer of each rater."""


def share(successes: int, number: int) -> dict[str, float | int] | None:
    """A proportion with its 95 % confidence interval by Wilson (1927, doi:10.2307/2276774).

    None without observations.
    """
    if not number:
        return None
    interval = binomtest(successes, number).proportion_ci(_LEVEL, method="wilson")
    return {
        "share": successes / number,
        "low": float(interval.low),
        "high": float(interval.high),
        "count": successes,
        "of": number,
    }


def krippendorff_alpha(
    units: Sequence[Sequence[float]], level: Literal["nominal", "ordinal"]
) -> float | None:
    """Agreement between raters: 1 perfect, 0 that of chance; units may lack raters.

    Krippendorff 2011, Computing Krippendorff's Alpha-Reliability
    (https://repository.upenn.edu/asc_papers/43).

    Args:
        units: for each unit the values of those raters that judged it.
        level: `nominal`, or `ordinal` for ranks.

    Returns:
        None if fewer than two raters judged the same unit, or all values are equal.
    """
    usable = [unit for unit in units if len(unit) > 1]
    values = sorted({value for unit in usable for value in unit})
    if len(values) < 2:
        return None
    index = {value: k for k, value in enumerate(values)}
    coincidences = np.zeros((len(values), len(values)))
    for unit in usable:
        counts = np.bincount([index[value] for value in unit], minlength=len(values))
        pairs = np.outer(counts, counts) - np.diag(counts)
        coincidences += pairs / (len(unit) - 1)
    totals = coincidences.sum(axis=0)
    distances = _squared_distances(totals, level)
    expected = np.outer(totals, totals) * distances
    return float(1 - (totals.sum() - 1) * (coincidences * distances).sum() / expected.sum())


def _squared_distances(totals: NDArray[Any], level: str) -> NDArray[Any]:
    if level == "nominal":
        return 1.0 - np.eye(len(totals))
    middle = np.cumsum(totals) - totals / 2
    squared: NDArray[Any] = np.subtract.outer(middle, middle) ** 2
    return squared


@dataclass(frozen=True, repr=False)
class Analysis:
    """What a reader study shows.

    Attributes:
        raters: by name: scans judged, and the shares of right answers to "real or synthetic?":
            of all, of the real and of the synthetic ones.
        pooled: the same for all raters together, with bootstrap intervals over people.
        agreement: Krippendorff's alpha for origin, quality and lesions.
        quality: mean of the real and of the synthetic scans and their difference.
        detection: share of `yes` at lesions and elsewhere, in real and in synthetic scans.
        lesions: for each lesion how many of how many raters saw it in either scan.
        scans, people: how many the study has.
        out: the report, if it was written.
    """

    raters: dict[str, dict[str, Any]]
    pooled: dict[str, Any]
    agreement: dict[str, float | None]
    quality: dict[str, Any]
    detection: dict[str, dict[str, Any]]
    lesions: list[dict[str, Any]]
    scans: int
    people: int
    out: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        fields = {name: value for name, value in vars(self).items() if name != "out"}
        return {"created_by": f"mrbridge {__version__}", **fields}

    def __repr__(self) -> str:
        lines = [f"{len(self.raters)} raters, {self.scans} scans of {self.people} people"]
        for name, of_one in self.raters.items():
            lines.append(f"{name}: {of_one['judged']} judged, right {in_words(of_one['all'])}")
        lines.append(f"all raters: right {in_words(self.pooled['all'])}")
        for question, alpha in self.agreement.items():
            if alpha is not None:
                lines.append(f"agreement about {question}: Krippendorff's alpha {alpha:.2f}")
        if self.quality:
            lines.append(
                f"quality: real {self.quality['real']:.2f}, synthetic "
                f"{self.quality['synthetic']:.2f}"
            )
        for place, kinds in self.detection.items():
            for kind, found in kinds.items():
                lines.append(f"'yes' at {place} in {kind} scans: {in_words(found)}")
        return "\n".join(lines)


def in_words(found: Mapping[str, float] | None) -> str:
    """`75 % (30 to 95 %; 3 of 4)`."""
    if found is None:
        return "–"
    percent = [round(100 * found[name]) for name in ("share", "low", "high")]
    return "{} % ({} to {} %; {} of {})".format(*percent, found["count"], found["of"])


def analyse(study: str | Path, *, write: bool = True) -> Analysis:
    """Analyse the answers of all raters so far.

    Args:
        write: also write `analysis.json` and `report.html` into it.

    Raises:
        InputError: there is no study, no answer, or a file that is not one of answers.
    """
    opened = Study.open(study)
    report, numbers = opened.path / "report.html", opened.path / "analysis.json"
    if write:
        must_be_ours(report)
        must_be_ours(numbers)
    answers: Answers = defaultdict(dict)
    raters: list[str] = []
    for path in sorted((opened.path / "answers").glob("*.csv")):
        given = read_answers(opened, path)
        raters += [path.stem] * bool(given)
        for one in given:
            answers[one.scan, one.question][path.stem] = one.answer
    if not raters:
        raise InputError(
            "has no answers yet",
            path=opened.path,
            remedy="Let raters judge the scans with mrbridge study rate.",
        )
    key = opened.key
    scans, spots = key["scans"], key["spots"]
    people = {scan: facts["person"] for scan, facts in scans.items()}
    rights = [
        (rater, people[scan], scans[scan]["is"], answer == scans[scan]["is"])
        for (scan, question), of_raters in answers.items()
        if question == ORIGIN
        for rater, answer in of_raters.items()
    ]
    result = Analysis(
        raters={rater: _right([one for one in rights if one[0] == rater]) for rater in raters},
        pooled={
            name: _clustered([(one[1], float(one[3])) for one in rights if name in ("all", one[2])])
            for name in ("all", "real", "synthetic")
        },
        agreement=_agreement(answers),
        quality=_quality(answers, scans, people),
        detection=_detection(answers, spots, scans),
        lesions=_lesions(answers, spots, scans),
        scans=len(scans),
        people=len(set(people.values())),
        out=report if write else None,
    )
    if write:
        write_json(numbers, result.as_json())
        write_text(report, render("study.html.j2", result=result, in_words=in_words))
    return result


def _right(rights: Sequence[tuple[str, str, str, bool]]) -> dict[str, Any]:
    shares: dict[str, Any] = {"judged": len(rights)}
    for name in ("all", "real", "synthetic"):
        chosen = [right for _, _, kind, right in rights if name in ("all", kind)]
        shares[name] = share(sum(chosen), len(chosen))
    return shares


def _clustered(values: Sequence[tuple[str, float]]) -> dict[str, Any] | None:
    """The mean of values of people, with a 95 % percentile bootstrap interval over people.

    Raters judge the same scans, so their answers are not independent; people are.
    """
    if not values:
        return None
    of_people: dict[str, list[float]] = defaultdict(list)
    for person, value in values:
        of_people[person].append(value)
    sums = np.array([sum(one) for one in of_people.values()])
    counts = np.array([len(one) for one in of_people.values()])
    chosen = np.random.default_rng(0).integers(0, len(sums), (_RESAMPLES, len(sums)))
    means = sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1)
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail]).tolist()
    total = int(counts.sum())
    return {
        "share": float(sums.sum() / total),
        "low": low,
        "high": high,
        "count": int(sums.sum()),
        "of": total,
    }


def _agreement(answers: Answers) -> dict[str, float | None]:
    kinds: dict[str, tuple[Callable[[str], bool], Literal["nominal", "ordinal"]]] = {
        "origin": (lambda question: question == ORIGIN, "nominal"),
        "quality": (lambda question: question == QUALITY, "ordinal"),
        "lesions": (lambda question: question not in (ORIGIN, QUALITY), "nominal"),
    }
    codes = {"real": 0.0, "synthetic": 1.0, "no": 0.0, "yes": 1.0}
    return {
        name: krippendorff_alpha(
            [
                [codes[value] if value in codes else float(value) for value in of_raters.values()]
                for (_, question), of_raters in answers.items()
                if chosen(question)
            ],
            level,
        )
        for name, (chosen, level) in kinds.items()
    }


def _quality(
    answers: Answers, scans: Mapping[str, Any], people: Mapping[str, str]
) -> dict[str, Any]:
    grades: dict[str, dict[tuple[str, str], int]] = {"real": {}, "synthetic": {}}
    for (scan, question), of_raters in answers.items():
        if question == QUALITY:
            for rater, answer in of_raters.items():
                grades[scans[scan]["is"]][rater, people[scan]] = int(answer)
    if not all(grades.values()):
        return {}
    both = grades["real"].keys() & grades["synthetic"].keys()
    apart = [(p, float(grades["synthetic"][r, p] - grades["real"][r, p])) for r, p in sorted(both)]
    difference = _clustered(apart)
    means = {kind: float(np.mean(list(of_kind.values()))) for kind, of_kind in grades.items()}
    if difference is None:
        return means | {"difference": None}
    return means | {
        "difference": {
            "mean": difference["share"],
            **{name: difference[name] for name in ("low", "high")},
            "pairs": difference["of"],
        }
    }


def _detection(
    answers: Answers, spots: Mapping[str, Any], scans: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The share of `yes` at lesions and elsewhere, in real and synthetic scans."""
    found: dict[str, dict[str, list[tuple[str, float]]]] = {}
    for (scan, question), of_raters in answers.items():
        if question in spots:
            place = "positions without a lesion"
            place = "lesions" if spots[question]["lesion"] is not None else place
            yes = found.setdefault(place, {}).setdefault(scans[scan]["is"], [])
            yes += [(scans[scan]["person"], float(one == "yes")) for one in of_raters.values()]
    return {
        place: {kind: _clustered(values) for kind, values in sorted(kinds.items())}
        for place, kinds in sorted(found.items())
    }


def _lesions(
    answers: Answers, spots: Mapping[str, Any], scans: Mapping[str, Any]
) -> list[dict[str, Any]]:
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for (scan, question), of_raters in answers.items():
        spot = spots.get(question)
        if spot is None or spot["lesion"] is None:
            continue
        person, number = scans[scan]["person"], spot["lesion"]
        row = rows.setdefault(
            (person, number),
            {"person": person, "lesion": number, "volume_ml": spot["volume_ml"]},
        )
        row[scans[scan]["is"]] = {
            "seen": sum(one == "yes" for one in of_raters.values()),
            "of": len(of_raters),
        }
    return [rows[one] for one in sorted(rows)]
