"""The result of an evaluation: scores of cases and their summary, and the files that hold them."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mrbridge import __version__
from mrbridge.evaluation import figures
from mrbridge.evaluation.cases import Case, Direction
from mrbridge.evaluation.lesions import Lesion
from mrbridge.evaluation.measures import catalogue
from mrbridge.evaluation.registration import PairRegistration
from mrbridge.evaluation.scoring import Job, Result
from mrbridge.evaluation.settings import EvaluateSettings
from mrbridge.io.atomic import read_json, write_json, write_text
from mrbridge.io.formats import is_2d
from mrbridge.io.names import folded
from mrbridge.io.ownership import is_ours, must_be_ours, must_be_writable
from mrbridge.io.remote import remove
from mrbridge.io.temporary import sweep
from mrbridge.preprocessing.registration import AGREEMENT_MM
from mrbridge.reports import counted, csv_table, render, some_files
from mrbridge.viewer import Embedded, packed_viewer

METHODS = ("model", "floor", "copy")
"""The synthetic image, the monotone baseline, the unchanged input; as in JSON and CSV."""

KINDS = ("fit", "plain")
MEASURES = ("psnr", "ssim", "mae")

_ANSWERS = {"yes": "may be used for", "no": "not for", "unknown": "not shown whether for"}
_ROW = ("case", "subject", "direction")  # the first columns of every table

Mode = Literal["pairs", "unpaired", "files"]
Outcome = Literal["better", "mixed", "worse", "unknown"]
Answer = Literal["yes", "no", "unknown"]

REPORT = "report.json"
"""The scores so far of an evaluation that was interrupted."""

_FIGURES = re.compile(r"_(slices|by-slice|by-case|joint-histogram|lesions|reliability)\.png$")


@dataclass(frozen=True)
class Scored:
    """A case with its results, by direction key.

    Attributes:
        baseline_on: to what the monotone baseline was fitted: `others`, `itself`, or None.
    """

    case: Case
    results: dict[str, Result]
    baseline_on: str | None = None
    registration: PairRegistration | None = None

    def as_json(self) -> dict[str, Any]:
        """The case in scores.json."""
        directions = {
            key: {
                "voxels": result.voxels,
                "scores": finite(result.scores),
                "cycle": finite(result.cycle),
                "slices": result.slices,
                "by_slice": finite(result.by_slice),
                **finite(result.measured.as_json()),
            }
            for key, result in self.results.items()
        }
        return {
            "case": self.case.name,
            "subject": self.case.subject,
            "floor_fitted_on": self.baseline_on,
            "registration": None if self.registration is None else self.registration.as_json(),
            "directions": directions,
        }


def with_scores(cases: Sequence[Scored], key: str) -> list[Scored]:
    """The cases that were scored against a real scan in this direction."""
    return [one for one in cases if key in one.results and one.results[key].scores]


def worst_and_median(cases: Sequence[Scored]) -> list[tuple[str, str, Scored]]:
    """The cases to look at, each as (direction key, `worst` or `median`, case): in each direction
    those with the lowest and the median SSIM (fitted); no median of a single case."""
    chosen = []
    for key in dict.fromkeys(key for one in cases for key in one.results):
        ranked = sorted(
            with_scores(cases, key), key=lambda one: one.results[key].scores["model"]["fit"]["ssim"]
        )
        chosen += [(key, "worst", one) for one in ranked[:1]]
        chosen += [(key, "median", ranked[len(ranked) // 2])] if len(ranked) > 1 else []
    return chosen


@dataclass(frozen=True)
class Verdict:
    """The meaning of the scores of one direction, in words."""

    direction: str
    outcome: Outcome
    text: str


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


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        out: the folder with `scores.csv`, `scores.json`, `report.html` and `figures`; None if
            nothing was written.
        mode: `pairs` (a model on pairs), `unpaired` (a model without pairs), `files` (synthetic
            images).
        summary: direction, method (`model`, `floor`, `copy`), kind (`fit`, `plain`), measure
            (`psnr` in dB, `ssim`, `mae`), then `mean`, `std` and `n` over subjects. An infinite
            mean (the PSNR of equal images) is None, as in JSON.
        cycles: the same of cycles: direction, `cycle` or `noisy`, kind, measure.
        wasserstein: direction, method: sliced Wasserstein distance from the real scans.
        measures: lesions, tissues, detail, uncertainty: direction, key, then `mean`, `std`, `n`
            over subjects.
        agreement: limits of agreement of tissue volumes: direction, key, then `bias`, `lower`,
            `upper`, `n`.
        lesions: numbers and volumes over all cases: direction, visibility, outcome.
        figures: of all cases together, by direction and kind (`joint`, `by_case`).
        failures: (case, reason) of cases that could not be scored.
        left_out: (file, reason) of files that were not scored.
        remarks: assumptions.
        masks: `given`, or the kind that the settings name.
        model_sha256: of the model's weights; None without a model.
        date: ISO 8601, UTC.
    """

    out: Path | None
    mode: Mode
    directions: tuple[Direction, ...]
    cases: tuple[Scored, ...]
    summary: dict[str, dict[str, Any]]
    cycles: dict[str, dict[str, Any]]
    wasserstein: dict[str, dict[str, float]]
    verdicts: tuple[Verdict, ...]
    measures: dict[str, dict[str, Any]]
    agreement: dict[str, dict[str, Any]]
    lesions: dict[str, dict[str, Any]]
    uses: tuple[Use, ...]
    figures: dict[str, dict[str, Path]]
    failures: tuple[tuple[str, str], ...]
    left_out: tuple[tuple[str, str], ...]
    remarks: tuple[str, ...]
    settings: EvaluateSettings
    masks: str
    model_sha256: str | None
    date: str

    @property
    def report(self) -> Path | None:
        """The page to open; None if nothing was written."""
        return None if self.out is None else self.out / "report.html"

    def as_json(self) -> dict[str, Any]:
        """The content of `scores.json`. Infinite scores (of equal images) are null."""
        return {
            "note": "scores of synthetic images; for research, not for diagnosis",
            "mrbridge": __version__,
            "date": self.date,
            "model_sha256": self.model_sha256,
            "mode": self.mode,
            "settings": self.settings.model_dump(mode="json"),
            "masks": self.masks,
            "verdicts": [vars(verdict) for verdict in self.verdicts],
            "uses": [vars(use) for use in self.uses],
            "summary": self.summary,
            "cycles": self.cycles,
            "sliced_wasserstein": finite(self.wasserstein),
            "measures": self.measures,
            "limits_of_agreement": self.agreement,
            "lesions": self.lesions,
            "cases": [scored.as_json() for scored in self.cases],
            "failures": [{"name": name, "reason": reason} for name, reason in self.failures],
            "left_out": [{"name": name, "reason": reason} for name, reason in self.left_out],
            "remarks": list(self.remarks),
        }

    def __repr__(self) -> str:
        verdicts = "\n".join(verdict.text for verdict in self.verdicts)
        return f"Evaluation of {counted(len(self.cases), 'case')}\n{verdicts}"

    def _repr_html_(self) -> str:
        return render("evaluation_notebook.html.j2", result=self)

    def uses_in_words(self) -> str:
        """One line for each direction and answer, each with a line break; empty without pairs."""
        lines = []
        for direction in self.directions:
            uses = [use for use in self.uses if use.direction == direction.key]
            for answer, words in _ANSWERS.items():
                found = [use.purpose for use in uses if use.answer == answer]
                if found:
                    lines.append(f"{direction.label} {words}: {'; '.join(found)}\n")
        return "".join(lines)

    def as_html(self) -> str:
        """The page: verdict, tables, figures, methods, limitations. It needs no other file."""
        files: dict[str, list[str]] = defaultdict(list)
        for name, reason in self.left_out:
            files[reason].append(name)
        settings = self.settings.model_dump(mode="json")
        return render(
            "evaluation.html.j2",
            result=self,
            only_2d=all(is_2d(p) for s in self.cases for p in s.case.images.values()),
            subjects=len({scored.case.subject for scored in self.cases}),
            with_scores=lambda direction: with_scores(self.cases, direction.key),
            viewers=self._viewers(),
            packed=packed_viewer(),
            shown=[one for one in self.cases if any(r.figures for r in one.results.values())],
            catalogue=catalogue(),
            registered=[one for one in self.cases if one.registration is not None],
            agreement_mm=AGREEMENT_MM,
            left_out=[(some_files(names), reason) for reason, names in files.items()],
            baselines_fitted_on=sorted({s.baseline_on for s in self.cases if s.baseline_on}),
            settings=", ".join(f"{key} = {value}" for key, value in settings.items()),
        )

    def _viewers(self) -> list[Embedded]:
        """The worst and the median case of each direction, for the viewer."""
        labels = {direction.key: direction.label for direction in self.directions}
        return [
            replace(images, title=f"the {name} case, {labels[key]}: {one.case.name}")
            for key, name, one in worst_and_median(self.cases)
            if (images := one.results[key].embedded) is not None
        ]

    def as_csv(self) -> str:
        """The content of `scores.csv`: one line for each case, direction, method and kind."""
        rows = []
        for scored, names, result in self._rows():
            of_registration = ["no", "", ""]
            if scored.registration is not None:
                registration = scored.registration.result
                numbers = (registration.displacement_mm, registration.residual_mm)
                of_registration = [registration.kind, *(f"{value:.3f}" for value in numbers)]
            for method in METHODS:
                fitted_on = scored.baseline_on if method == "floor" else ""
                for kind, values in result.scores.get(method, {}).items():
                    scores = [f"{values[measure]:.6g}" for measure in MEASURES]
                    rows.append([*names, method, kind, *scores, fitted_on, *of_registration])
        columns = ["method", "kind", *MEASURES, "floor_fitted_on"]
        return csv_table([*_ROW, *columns, "registered", "displacement_mm", "residual_mm"], rows)

    def measures_as_csv(self) -> str:
        """The content of `measures.csv`: one line for each case, direction and measure."""
        rows = [
            [*names, key, f"{value:.6g}"]
            for _, names, result in self._rows()
            for key, value in result.measured.values.items()
        ]
        return csv_table([*_ROW, "measure", "value"], rows)

    def lesions_as_csv(self) -> str:
        """The content of `lesions.csv`: one line for each lesion and each invented one."""
        columns = [field.name for field in fields(Lesion)]
        rows = [
            [*names, number, *lesion.as_json().values()]
            for _, names, result in self._rows()
            for number, lesion in enumerate(result.measured.lesions or [], start=1)
        ]
        return csv_table([*_ROW, "lesion", *columns], rows)

    def _rows(self) -> Iterator[tuple[Scored, list[str], Result]]:
        """Each case and direction: the case, the first cells of its rows, its result."""
        for scored in self.cases:
            for key, result in scored.results.items():
                yield scored, [cell(scored.case.name), cell(scored.case.subject), key], result


def cell(text: str) -> str:
    """Text as a cell that no spreadsheet reads as a formula (OWASP, "CSV Injection")."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def finite(value: Any) -> Any:
    """Nested values for JSON: infinity and NaN become None."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value


def with_figures(jobs: Sequence[Job], folder: Path) -> list[Job]:
    """The jobs, the first ones with the path of their figures."""
    result, stems = [], set()
    for number, job in enumerate(jobs):
        if number < job.settings.shown_cases:
            stem = re.sub(r"[^\w.+-]+", "-", job.case.name)[:80].strip("-.") or "case"
            stem = f"{stem}-{number + 1}" if folded(stem) in stems else stem
            stems.add(folded(stem))
            job = replace(job, figures=folder / stem)
        result.append(job)
    return result


def check_figures(jobs: Sequence[Job], out: Path) -> None:
    """Refuse to replace figures that mrbridge did not draw."""
    if is_ours(out / "scores.json"):
        return  # of an earlier evaluation, whose figures had no mark in older versions
    stems = ["all", *(job.figures.name for job in jobs if job.figures is not None)]
    for stem in stems:
        for path in (out / "figures").glob(f"{stem}_*.png"):
            if _FIGURES.search(path.name):
                must_be_ours(path)


def draw_overall(
    cases: Sequence[Scored], directions: Sequence[Direction], folder: Path
) -> dict[str, dict[str, Path]]:
    """Figures of all cases together: direction, kind, path."""
    paths: dict[str, dict[str, Path]] = {}
    for direction in directions:
        key = direction.key
        results = {one.case.name: one.results[key] for one in with_scores(cases, key)}
        if not results:
            continue
        paths[key] = {"joint": folder / f"all_{key}_joint-histogram.png"}
        counts = [one.counts for one in results.values() if one.counts is not None]
        figures.draw_joint_histogram(np.sum(counts, axis=0), direction, paths[key]["joint"])
        if len(results) > 1:
            paths[key]["by_case"] = folder / f"all_{key}_by-case.png"
            scores = {
                method: {
                    measure: [one.scores[method]["fit"][measure] for one in results.values()]
                    for measure in ("psnr", "ssim")
                }
                for method in next(iter(results.values())).scores
            }
            figures.draw_by_case(list(results), scores, paths[key]["by_case"])
    return paths


def check_place(out: Path) -> None:
    """Refuse a place that cannot be written, before anything is scored.

    Raises:
        OutputError: it cannot, or holds files of the same names that mrbridge did not write.
    """
    for name in ("report.html", "scores.csv", "measures.csv", "lesions.csv", "scores.json"):
        must_be_ours(out / name)
    sweep(out)
    sweep(out / "figures")
    must_be_writable(out)


def interrupted(scored: Sequence[Scored], failures: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The results so far of an evaluation that was interrupted."""
    return {
        "created_by": f"mrbridge {__version__}",
        "done": [
            {
                "case": one.case.name,
                "scores": {key: finite(result.scores) for key, result in one.results.items()},
            }
            for one in scored
        ],
        "failed": [{"case": name, "error": reason} for name, reason in failures],
        "interrupted": True,
    }


def write_result(result: Evaluation, out: Path) -> None:
    """Tables and report; files of an earlier evaluation that are out of date are removed."""
    try:
        earlier = read_json(out / REPORT)
    except (OSError, ValueError):
        earlier = None
    if isinstance(earlier, dict) and earlier.get("interrupted") is True:
        remove(out / REPORT)
    write_text(out / "scores.csv", result.as_csv())
    write_text(out / "measures.csv", result.measures_as_csv())
    if result.lesions:
        write_text(out / "lesions.csv", result.lesions_as_csv())
    elif is_ours(out / "lesions.csv"):
        remove(out / "lesions.csv")
    write_json(out / "scores.json", result.as_json())
    write_text(out / "report.html", result.as_html())
    of_cases = [one.figures for scored in result.cases for one in scored.results.values()]
    current = {path for paths in (*result.figures.values(), *of_cases) for path in paths.values()}
    for path in (out / "figures").glob("*.png"):
        if _FIGURES.search(path.name) and path not in current and is_ours(path):
            remove(path)
