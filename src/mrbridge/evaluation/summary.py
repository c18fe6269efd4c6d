"""From the scores of cases to means over subjects, a verdict in words, and files."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mrbridge import __version__, metrics
from mrbridge.errors import InputError
from mrbridge.evaluation.cases import Case, Direction
from mrbridge.evaluation.lesions import add_counts, count
from mrbridge.evaluation.measures import catalogue
from mrbridge.evaluation.registration import PairRegistration
from mrbridge.evaluation.scoring import Result
from mrbridge.evaluation.settings import EvaluateSettings
from mrbridge.evaluation.tissues import limits_of_agreement
from mrbridge.evaluation.uses import Use
from mrbridge.io.formats import is_2d
from mrbridge.metrics import Scores
from mrbridge.preprocessing.registration import AGREEMENT_MM
from mrbridge.reports import counted, render

METHODS = ("model", "floor", "copy")
"""The synthetic image, the monotone baseline, the unchanged input; as in JSON and CSV."""

KINDS = ("fit", "plain")
MEASURES = ("psnr", "ssim", "mae")

_FILES = 4  # listed for each reason in the report

Mode = Literal["pairs", "unpaired", "files"]
Outcome = Literal["better", "mixed", "worse", "unknown"]


@dataclass(frozen=True)
class Scored:
    """A case with its results, by direction key.

    Attributes:
        case: what was scored.
        results: by direction key.
        baseline_on: to what the monotone baseline was fitted: `others`, `itself`, or None.
        registration: of its scans, if they were registered.
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


@dataclass(frozen=True)
class Verdict:
    """The meaning of the scores of one direction, in words."""

    direction: str
    outcome: Outcome
    text: str


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        out: the folder with `scores.csv`, `scores.json`, `report.html` and `figures`; None if
            nothing was written.
        mode: `pairs` (a model on pairs), `unpaired` (a model without pairs), `files` (synthetic
            images).
        directions: that were scored.
        cases: with their scores, by direction.
        summary: direction, method (`model`, `floor`, `copy`), kind (`fit`, `plain`), measure
            (`psnr` in dB, `ssim`, `mae`), then `mean`, `std` and `n` over subjects. An infinite
            mean (the PSNR of equal images) is None, as in JSON.
        cycles: the same of cycles: direction, `cycle` or `noisy`, kind, measure.
        wasserstein: direction, method: sliced Wasserstein distance from the real scans.
        verdicts: in words, for each direction.
        measures: lesions, tissues, detail, uncertainty: direction, key, then `mean`, `std`, `n`
            over subjects.
        agreement: limits of agreement of tissue volumes: direction, key, then `bias`, `lower`,
            `upper`, `n`.
        lesions: numbers and volumes over all cases: direction, visibility, outcome.
        uses: what the synthetic scans may be used for.
        figures: of all cases together, by direction and kind (`joint`, `by_case`).
        failures: (case, reason) of cases that could not be scored.
        left_out: (file, reason) of files that were not scored.
        remarks: assumptions.
        settings: how it was scored.
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
        labels = {direction.key: direction.label for direction in self.directions}
        answers = {
            "yes": "may be used for",
            "no": "not for",
            "unknown": "not shown whether for",
        }
        lines = []
        for key, label in labels.items():
            for answer, words in answers.items():
                found = [u.purpose for u in self.uses if (u.direction, u.answer) == (key, answer)]
                if found:
                    lines.append(f"{label} {words}: {'; '.join(found)}\n")
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
            with_scores=lambda direction: [
                one
                for one in self.cases
                if direction.key in one.results and one.results[direction.key].scores
            ],
            shown=[one for one in self.cases if any(r.figures for r in one.results.values())],
            catalogue=catalogue(),
            registered=[one for one in self.cases if one.registration is not None],
            agreement_mm=AGREEMENT_MM,
            left_out=[(some(names), reason) for reason, names in files.items()],
            baselines_fitted_on=sorted({s.baseline_on for s in self.cases if s.baseline_on}),
            settings=", ".join(f"{key} = {value}" for key, value in settings.items()),
        )

    def as_csv(self) -> str:
        """The content of `scores.csv`: one line for each case, direction, method and kind."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        keys = ["case", "subject", "direction", "method", "kind"]
        registered = ["registered", "displacement_mm", "residual_mm"]
        writer.writerow([*keys, *MEASURES, "floor_fitted_on", *registered])
        for scored in self.cases:
            of_registration = ["no", "", ""]
            if scored.registration is not None:
                registration = scored.registration.result
                numbers = (registration.displacement_mm, registration.residual_mm)
                of_registration = [registration.kind, *(f"{value:.3f}" for value in numbers)]
            names = [cell(scored.case.name), cell(scored.case.subject)]
            for key, result in scored.results.items():
                for method in METHODS:
                    fitted_on = scored.baseline_on if method == "floor" else ""
                    for kind, values in result.scores.get(method, {}).items():
                        scores = [f"{values[measure]:.6g}" for measure in MEASURES]
                        row = [*names, key, method, kind, *scores, fitted_on, *of_registration]
                        writer.writerow(row)
        return text.getvalue()

    def measures_as_csv(self) -> str:
        """The content of `measures.csv`: one line for each case, direction and measure."""
        rows = [
            [*names, key, f"{value:.6g}"]
            for names, result in self._rows()
            for key, value in result.measured.values.items()
        ]
        return _table(["case", "subject", "direction", "measure", "value"], rows)

    def lesions_as_csv(self) -> str:
        """The content of `lesions.csv`: one line for each lesion and each invented one."""
        rows = []
        columns: list[str] = []
        for names, result in self._rows():
            for number, lesion in enumerate(result.measured.lesions or [], start=1):
                values = lesion.as_json()
                columns = list(values)
                rows.append([*names, number, *values.values()])
        return _table(["case", "subject", "direction", "lesion", *columns], rows)

    def _rows(self) -> Iterator[tuple[list[str], Result]]:
        for scored in self.cases:
            for key, result in scored.results.items():
                yield [cell(scored.case.name), cell(scored.case.subject), key], result


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


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


def summarise(
    cases: Sequence[Scored], of: Literal["scores", "cycle"] = "scores"
) -> dict[str, dict[str, Any]]:
    """Mean and standard deviation over subjects: direction, method, kind, measure.

    Several cases of one subject (sessions) are averaged first. The standard deviation is that of
    the sample (n - 1); None for a single subject.

    Args:
        cases: with their results.
        of: scores of the methods, or of the cycle, whose methods are `cycle` and `noisy`.
    """
    methods = METHODS if of == "scores" else ("cycle", "noisy")
    result: dict[str, dict[str, Any]] = {}
    for key in dict.fromkeys(key for one in cases for key in one.results):
        tables = {method: _by_subject(cases, key, method, of) for method in methods}
        if any(tables.values()):
            result[key] = {m: _statistics(table) for m, table in tables.items() if table}
    return result


def summarise_measures(cases: Sequence[Scored]) -> dict[str, dict[str, Any]]:
    """Mean and standard deviation over subjects of the measures: direction, key."""
    return {
        direction: {key: _mean_and_std(list(values.values())) for key, values in by_key.items()}
        for direction, by_key in _measures_by_subject(cases).items()
    }


def agreement(cases: Sequence[Scored]) -> dict[str, dict[str, Any]]:
    """Limits of agreement of the tissue volumes over subjects: direction, key."""
    return {
        direction: {
            key: limits_of_agreement(list(values.values()))
            for key, values in by_key.items()
            if key.startswith("volume_bias_")
        }
        for direction, by_key in _measures_by_subject(cases).items()
    }


def lesion_counts(cases: Sequence[Scored]) -> dict[str, dict[str, Any]]:
    """Numbers and volumes of lesions over the cases with a lesion mask: direction, visibility."""
    tables: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in cases:
        for key, result in one.results.items():
            if result.measured.has_mask:
                tables[key].append(count(result.measured.lesions or []))
    return {key: add_counts(of_direction) for key, of_direction in tables.items()}


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
    model, baseline = (_by_subject(cases, key, method) for method in ("model", "floor"))
    gains = {
        measure: np.array([model[s]["fit"][measure] - baseline[s]["fit"][measure] for s in model])
        for measure in ("psnr", "ssim")
    }
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
    extent = counted(len(model), noun)
    if len(model) > 1:
        extent += f", higher PSNR in {int((gains['psnr'] > 0).sum())} of {len(model)}"
    text = f"{label}: {comparison} ({extent}). Scores of the model: {scores}."
    if any(one.baseline_on == "itself" for one in cases):
        text += (
            " The baseline was fitted to the same scans that it is scored on, so it is too good."
        )
    return Verdict(key, outcome, text)


def _by_subject(
    cases: Sequence[Scored], key: str, method: str, of: str = "scores"
) -> dict[str, Scores]:
    """The scores of one method in one direction, cases of one subject averaged."""
    groups: dict[str, list[Scores]] = defaultdict(list)
    for one in cases:
        scores = getattr(one.results[key], of).get(method) if key in one.results else None
        if scores is not None:
            groups[one.case.subject].append(scores)
    return {
        subject: {
            kind: {m: float(np.mean([scores[kind][m] for scores in group])) for m in MEASURES}
            for kind in KINDS
        }
        for subject, group in groups.items()
    }


def _measures_by_subject(cases: Sequence[Scored]) -> dict[str, dict[str, dict[str, float]]]:
    """Direction, key, subject; sessions of one subject are averaged."""
    groups: dict[str, dict[str, dict[str, list[float]]]] = {}
    for one in cases:
        for direction, result in one.results.items():
            for key, value in result.measured.values.items():
                of_key = groups.setdefault(direction, {}).setdefault(key, defaultdict(list))
                of_key[one.case.subject].append(value)
    return {
        direction: {
            key: {subject: float(np.mean(values)) for subject, values in of_key.items()}
            for key, of_key in by_key.items()
        }
        for direction, by_key in groups.items()
    }


def _mean_and_std(values: Sequence[float]) -> dict[str, float | int | None]:
    array = np.array(values)
    has_std = len(array) > 1 and bool(np.isfinite(array).all())
    std = float(array.std(ddof=1)) if has_std else None
    return {"mean": float(array.mean()), "std": std, "n": len(array)}


def _statistics(table: Mapping[str, Scores]) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """Mean, standard deviation and number of subjects, by kind and measure."""

    return {
        kind: {m: _mean_and_std([scores[kind][m] for scores in table.values()]) for m in MEASURES}
        for kind in KINDS
    }


def some(names: Sequence[str]) -> str:
    """The first few different names, and the number of files."""
    different = list(dict.fromkeys(names))
    shown = ", ".join(different[:_FILES]) + (", …" if len(different) > _FILES else "")
    return shown + (f" ({len(names)} files)" if len(names) > 1 else "")
