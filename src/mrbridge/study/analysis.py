"""The analysis of a reader study: accuracy, agreement, quality, detection of lesions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from mrbridge import __version__
from mrbridge.errors import InputError
from mrbridge.io.atomic import write_json, write_text
from mrbridge.io.ownership import must_be_ours
from mrbridge.reports import counted, render
from mrbridge.study.design import ORIGIN, QUALITY, Answer, Study, read_answers

_RESAMPLES = 2000
_LEVEL = 0.95


def share(successes: int, number: int) -> dict[str, float | int] | None:
    """A proportion with its 95 % confidence interval by Wilson (1927, doi:10.2307/2276774).

    None without observations.
    """
    if not number:
        return None
    interval = binomtest(successes, number).proportion_ci(_LEVEL, method="wilson")
    return _share(successes, number, float(interval.low), float(interval.high))


def _share(total: float, number: int, low: float, high: float) -> dict[str, float | int]:
    share = float(total / number)
    return {"share": share, "low": low, "high": high, "count": int(total), "of": number}


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
    middle = np.cumsum(totals) - totals / 2
    ranks_apart = np.subtract.outer(middle, middle)
    distances = 1.0 - np.eye(len(values)) if level == "nominal" else ranks_apart**2
    expected = np.outer(totals, totals) * distances
    return float(1 - (totals.sum() - 1) * (coincidences * distances).sum() / expected.sum())


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
        out: the report.
    """

    raters: dict[str, dict[str, Any]]
    pooled: dict[str, Any]
    agreement: dict[str, float | None]
    quality: dict[str, Any]
    detection: dict[str, dict[str, Any]]
    lesions: list[dict[str, Any]]
    scans: int
    people: int
    out: Path

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        fields = {name: value for name, value in vars(self).items() if name != "out"}
        return {"created_by": f"mrbridge {__version__}", **fields}

    def __repr__(self) -> str:
        raters, scans = counted(len(self.raters), "rater"), counted(self.scans, "scan")
        lines = [f"{raters}, {scans} of {counted(self.people, 'person', 'people')}"]
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


def analyse(study: str | Path) -> Analysis:
    """Analyse the answers of all raters so far; write `analysis.json` and `report.html` into it.

    Raises:
        InputError: there is no study, no answer, or a file that is not one of answers.
    """
    opened = Study.open(study)
    report, numbers = opened.path / "report.html", opened.path / "analysis.json"
    must_be_ours(report)
    must_be_ours(numbers)
    answers = _answers(opened)
    origin = answers[answers["question"] == ORIGIN]
    result = Analysis(
        raters={
            rater: {"judged": len(of_one)}
            | _by_kind(of_one, lambda of: share(int(of.sum()), len(of)))
            for rater, of_one in origin.groupby("rater", sort=False)
        },
        pooled=_by_kind(origin, lambda right: _clustered(origin["person"][right.index], right)),
        agreement=_agreement(answers),
        quality=_quality(answers),
        detection=_detection(answers),
        lesions=_lesions(answers),
        scans=len(opened.key["scans"]),
        people=len({scan["person"] for scan in opened.key["scans"].values()}),
        out=report,
    )
    write_json(numbers, result.as_json())
    write_text(report, render("study.html.j2", result=result, in_words=in_words))
    return result


def _answers(study: Study) -> pd.DataFrame:
    """All answers, as text, with what the key says of the scan and, if any, of the position."""
    scans, spots = study.key["scans"], study.key["spots"]
    rows = []
    files = {
        path: read_answers(study, path) for path in sorted((study.path / "answers").glob("*.csv"))
    }
    _refuse_copies(files)
    for path, answers in files.items():
        for one in answers:
            spot = spots.get(one.question, {"lesion": None, "volume_ml": None})
            place = "lesions" if spot["lesion"] is not None else "positions without a lesion"
            rows.append(
                {
                    "rater": path.stem,
                    "scan": one.scan,
                    "question": one.question,
                    "answer": one.answer,
                    "person": scans[one.scan]["person"],
                    "kind": scans[one.scan]["is"],
                    "place": place if one.question in spots else None,
                    "lesion": spot["lesion"],
                    "volume_ml": spot["volume_ml"],
                }
            )
    if not rows:
        raise InputError(
            "has no answers yet",
            path=study.path,
            remedy="Let raters judge the scans with mrbridge study rate.",
        )
    return pd.DataFrame(rows, dtype=object)


def _refuse_copies(files: Mapping[Path, Sequence[Answer]]) -> None:
    """Refuse answers that are in two files, to the tenth of a second (InputError): the copy would
    count as another rater, who agrees."""
    for (path, answers), (other, others) in permutations(files.items(), 2):
        if len({one.seconds for one in answers}) > 1 and set(answers) <= set(others):
            raise InputError(
                f"holds only answers that {other.name} has, too, with the same times: one of the "
                "two is a copy",
                path=path,
                remedy="Move the copy out of the folder.",
            )


def _by_kind(origin: pd.DataFrame, measure: Callable[[pd.Series], Any]) -> dict[str, Any]:
    """A measure of which answers about the origin are right: of all, and by what the scans are."""
    right = origin["answer"] == origin["kind"]
    kinds = {kind: right[origin["kind"] == kind] for kind in ("real", "synthetic")}
    return {name: measure(one) for name, one in ({"all": right} | kinds).items()}


def _clustered(people: pd.Series, values: pd.Series) -> dict[str, Any] | None:
    """The mean of values of people, with a 95 % percentile bootstrap interval over people.

    Raters judge the same scans, so their answers are not independent; people are.
    """
    if not len(values):
        return None
    of_people = values.astype(float).groupby(people, sort=False)
    sums, counts = of_people.sum().to_numpy(), of_people.size().to_numpy()
    chosen = np.random.default_rng(0).integers(0, len(sums), (_RESAMPLES, len(sums)))
    means = sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1)
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail]).tolist()
    return _share(sums.sum(), int(counts.sum()), low, high)


def _agreement(answers: pd.DataFrame) -> dict[str, float | None]:
    codes = {"real": 0.0, "synthetic": 1.0, "no": 0.0, "yes": 1.0}
    values = answers["answer"].map(lambda answer: codes[answer] if answer in codes else int(answer))
    kinds: dict[str, tuple[pd.Series, Literal["nominal", "ordinal"]]] = {
        "origin": (answers["question"] == ORIGIN, "nominal"),
        "quality": (answers["question"] == QUALITY, "ordinal"),
        "lesions": (answers["place"].notna(), "nominal"),
    }
    by = [answers["scan"], answers["question"]]
    return {
        name: krippendorff_alpha(
            [of_raters.tolist() for _, of_raters in values[chosen].groupby(by, sort=False)], level
        )
        for name, (chosen, level) in kinds.items()
    }


def _quality(answers: pd.DataFrame) -> dict[str, Any]:
    grades = answers[answers["question"] == QUALITY]
    grades = grades.set_index(["rater", "person", "kind"])["answer"].astype(float).unstack("kind")
    if {"real", "synthetic"} - set(grades):
        return {}
    means = {kind: float(grades[kind].mean()) for kind in ("real", "synthetic")}
    apart = (grades["synthetic"] - grades["real"]).dropna()
    difference = _clustered(apart.index.get_level_values("person"), apart)
    if difference is None:
        return means | {"difference": None}
    return means | {
        "difference": {
            "mean": difference["share"],
            **{name: difference[name] for name in ("low", "high")},
            "pairs": difference["of"],
        }
    }


def _detection(answers: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The share of `yes` at lesions and elsewhere, in real and synthetic scans."""
    found: dict[str, dict[str, Any]] = {}
    for (place, kind), one in answers.groupby(["place", "kind"]):
        found.setdefault(place, {})[kind] = _clustered(one["person"], one["answer"] == "yes")
    return found


def _lesions(answers: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for (person, number), of_one in answers.groupby(["person", "lesion"]):
        seen = (of_one["answer"] == "yes").groupby(of_one["kind"], sort=False)
        rows.append(
            {"person": person, "lesion": int(number), "volume_ml": of_one["volume_ml"].iloc[0]}
            | {kind: {"seen": int(one.sum()), "of": len(one)} for kind, one in seen}
        )
    return rows
