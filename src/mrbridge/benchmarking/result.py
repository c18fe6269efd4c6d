"""The result of a benchmark: means over subjects and seeds, in words, tables, a figure, a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mrbridge.benchmarking.scores import HeldOutScans, Table, from_tables
from mrbridge.evaluation import summary
from mrbridge.evaluation.figures import COLOURS, LABELS, save
from mrbridge.evaluation.result import MEASURES, Verdict, cell, finite
from mrbridge.io.atomic import write_text
from mrbridge.reports import counted, csv_table, mean_and_std, render
from mrbridge.training.words import WARNINGS

STATE, TABLE, SUMMARY = "benchmark.json", "scores.csv", "summary.csv"
FIGURE, REPORT = "scores.png", "report.html"

COLUMNS: dict[str, tuple[str, int, bool]] = {
    "psnr": ("PSNR (dB)", 2, True),
    "ssim": ("SSIM", 3, True),
    "mae": ("MAE", 3, False),
    "cycle_psnr": ("cycle PSNR (dB)", 2, True),
    "wasserstein": ("Wasserstein distance", 1, False),
}
"""Heading, digits, and whether larger is better, of every measure."""

BASELINES = ("floor", "copy")
RANKING = ("psnr", "wasserstein", "cycle_psnr")

Means = dict[str, dict[str, dict[str, dict[str, Any]]]]
"""Direction key, arm or baseline, measure: `mean`, `std` over seeds, `n` seeds, and for scores of
pairs `subjects_std`, the standard deviation over subjects."""


@dataclass(frozen=True, repr=False)
class Benchmark:
    """A benchmark on disk.

    Attributes:
        path: its folder; `path / "report.html"` is the page to read.
        values: the content of benchmark.json.
        means: scores by direction, then arm or baseline (`floor`, the monotone intensity mapping;
            `copy`, the unchanged input), then measure.
        measure: by which arms are ranked, the mean of both directions: `psnr`; without pairs
            `wasserstein`, or `cycle_psnr` for images that are too small for that.
        ranking: arms, best first.
        differences: of every arm but the first from the first, in the measure of the ranking:
            (difference, standard deviation of the difference over seeds or None).
        verdicts: of every arm in each direction, compared with the monotone baseline.
    """

    path: Path
    values: dict[str, Any]
    means: Means
    measure: str
    ranking: tuple[str, ...]
    differences: dict[str, tuple[float, float | None]]
    verdicts: dict[str, tuple[Verdict, ...]]

    @classmethod
    def of(cls, path: Path, values: dict[str, Any], scans: HeldOutScans) -> Benchmark | None:
        """The result so far; None if no training is complete."""
        complete = [run for run in values["runs"] if "error" not in run]
        if not complete:
            return None
        baselines = values["baselines"]
        names = [name for name in values["arms"] if any(run["arm"] == name for run in complete)]
        means: Means = {direction.key: {} for direction in scans.directions()}
        verdicts = {}
        for name in names:
            runs = [one for one in complete if one["arm"] == name]
            tables: list[Table] = [one["table"] for one in runs]
            scored = from_tables(scans.cases, [*tables, baselines["table"]], baselines["fitted_on"])
            over_subjects = summary.summarise(scored)
            verdicts[name] = tuple(
                summary.judge(scored, direction, over_subjects) for direction in scans.directions()
            )
            for key, of_direction in means.items():
                of_direction[name] = _over_seeds(scans, runs, key, over_subjects)
        for key, of_direction in means.items():
            fixed = summary.summarise(from_tables(scans.cases, [baselines["table"]], None))
            for method in BASELINES:
                found = _of_baseline(fixed, baselines["wasserstein"], key, method)
                if found:
                    of_direction[method] = found
        rows = [of_direction[name] for of_direction in means.values() for name in names]
        measure = next(m for m in RANKING if any(m in row for row in rows))
        ranking, differences = _ranked(means, names, measure)
        return cls(path, values, means, measure, ranking, differences, verdicts)

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The trainings that failed."""
        return [one for one in self.values["runs"] if "error" in one]

    def as_json(self) -> dict[str, Any]:
        """The summary; benchmark.json has the scores of every subject, too."""
        return {
            "path": str(self.path),
            "report": str(self.path / REPORT),
            "split": self.values["split"],
            "paired": self.values["paired"],
            "ranking": list(self.ranking),
            "ranked_by": self.measure,
            "differences": {
                name: {"difference": difference, "std": std}
                for name, (difference, std) in self.differences.items()
            },
            "means": finite(self.means),
            "arms": {
                name: {"parameters": arm["parameters"], "initial": arm["initial"]}
                for name, arm in self.values["arms"].items()
            },
            "runs": [
                {key: one[key] for key in ("arm", "seed", "steps", "error") if key in one}
                for one in self.values["runs"]
            ],
        }

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.extent()}"]
        columns = self.columns()
        for key, of_direction in self.means.items():
            rows = [[key.replace("_to_", " → "), *(COLUMNS[one][0] for one in columns)]]
            for name, label in self.rows(key):
                rows.append([label, *(self.shown(of_direction[name], one) for one in columns)])
            widths = [max(len(row[k]) for row in rows) for k in range(len(columns) + 1)]
            lines += [
                "  ".join(
                    text.ljust(width) if k == 0 else text.rjust(width)
                    for k, (text, width) in enumerate(zip(row, widths, strict=True))
                ).rstrip()
                for row in rows
            ]
        lines += self.conclusions()
        return "\n".join([*lines, f"The report: {self.path / REPORT}"])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return render("benchmark_notebook.html.j2", result=self, columns=COLUMNS)

    def extent(self) -> str:
        cases = self.values["baselines"]["table"]
        split = {"test": "test", "val": "validation"}[self.values["split"]]
        nouns = ("pair of scans", "pairs of scans") if self.values["paired"] else ("scan", "scans")
        count = counted(len(cases), *(f"{split} {noun}" for noun in nouns))
        trained = counted(len(self.values["runs"]) - len(self.failures), "training")
        return f"{trained} of {counted(self.values['plan']['minutes'], 'minute')}, {count}"

    def columns(self) -> list[str]:
        """The measures that there are."""
        known = {measure for one in self.means.values() for row in one.values() for measure in row}
        return [measure for measure in COLUMNS if measure in known]

    def rows(self, direction: str) -> list[tuple[str, str]]:
        """Arms in the order of the ranking, then baselines, with their labels."""
        names = [*self.ranking, *(n for n in BASELINES if n in self.means[direction])]
        return [(name, LABELS[name] if name in BASELINES else name) for name in names]

    @staticmethod
    def shown(row: Mapping[str, Any], measure: str) -> str:
        """A mean with its standard deviation over seeds; empty if there is none."""
        return mean_and_std(row[measure], COLUMNS[measure][1]) if measure in row else ""

    def conclusions(self) -> list[str]:
        """What the scores mean, a sentence each."""
        first = self.ranking[0]
        heading, digits, _ = COLUMNS[self.measure]
        unit, name = (" dB", "PSNR") if self.measure == "psnr" else ("", heading)
        lines = []
        for other, (difference, std) in self.differences.items():
            text = f"{first} is better than {other} by {difference:.{digits}f}{unit} {name}"
            if std is None:
                text += "; with one seed it is not known how much of this is chance."
            elif difference <= 2 * std:
                text = (
                    f"{first} and {other} cannot be distinguished: their difference of "
                    f"{difference:.{digits}f}{unit} {name} is within two standard deviations over "
                    f"seeds ({2 * std:.{digits}f})."
                )
            else:
                text += f", more than two standard deviations over seeds ({2 * std:.{digits}f})."
            lines.append(text)
        for arm, verdicts in self.verdicts.items():
            bad = [one.direction for one in verdicts if one.outcome in ("worse", "mixed")]
            if bad:
                where = " and ".join(key.replace("_to_", " → ") for key in bad)
                lines.append(f"{arm} is not better than the monotone baseline in {where}.")
        lines += self._remarks()
        return lines

    def _remarks(self) -> Iterator[str]:
        for arm in self.ranking:
            runs = [one for one in self.values["runs"] if one["arm"] == arm and "error" not in one]
            if all(one["kept_initial"] for one in runs):
                yield f"{arm}: no training was better than its initial model, which was scored."
            for run in runs:
                for direction, verdict in run["verdicts"].items():
                    yield f"{arm}, seed {run['seed']}: {direction} {WARNINGS[verdict]}."
        if self.values["split"] == "val":
            yield (
                "The store has no test split. The validation split also chose the best state of "
                "each training, so these scores are slightly inflated."
            )
        if not self.values["paired"]:
            yield "Without pairs, scores do not show how accurate the synthesis is."
        for run in self.failures:
            yield f"{run['arm']}, seed {run['seed']}, failed: {run['error']}"

    def write(self) -> None:
        """Write the tables, the figure and the page."""
        write_text(self.path / TABLE, self._table())
        write_text(self.path / SUMMARY, self._summary())
        self._draw()
        page = render("benchmark.html.j2", result=self, columns=COLUMNS, figure=self.path / FIGURE)
        write_text(self.path / REPORT, page)

    def _table(self) -> str:
        """One line for each arm and seed (or baseline), case, direction and kind."""
        rows = []
        for run in [*self.values["runs"], {"arm": "", "seed": "", **self.values["baselines"]}]:
            for case, of_case in run.get("table", {}).items():
                for key, result in of_case.items():
                    methods = result["scores"] | result["cycle"]
                    for method, kinds in methods.items():
                        for kind, values in kinds.items():
                            scores = [_digits(values[measure]) for measure in MEASURES]
                            arm = cell(run["arm"] or method)
                            rows.append([arm, run["seed"], cell(case), key, method, kind, *scores])
        return csv_table(["arm", "seed", "case", "direction", "method", "kind", *MEASURES], rows)

    def _summary(self) -> str:
        """One line for each direction, arm or baseline, and measure."""
        columns = ("mean", "std", "n", "subjects_std")
        rows = [
            [key, cell(name), measure, *(_digits(value.get(one)) for one in columns)]
            for key, of_direction in self.means.items()
            for name, measures in of_direction.items()
            for measure, value in measures.items()
        ]
        heads = ("mean", "std_over_seeds", "seeds", "std_over_subjects")
        return csv_table(["direction", "arm", "measure", *heads], rows)

    def _draw(self) -> None:
        """Every seed a dot, the mean a line; baselines as lines through all arms."""
        measures = ["psnr", "ssim"] if self.values["paired"] else ["wasserstein", "cycle_psnr"]
        measures = [one for one in measures if one in self.columns()]
        height = 1.2 + 0.38 * len(self.ranking)
        figure = Figure(figsize=(9, len(measures) * height), dpi=110, layout="constrained")
        axes = figure.subplots(len(measures), len(self.means), squeeze=False, sharey=True)
        arms = self.ranking[::-1]
        for row, measure in zip(axes, measures, strict=True):
            for axis, (key, of_direction) in zip(row, self.means.items(), strict=True):
                for place, name in enumerate(arms):
                    value = of_direction[name].get(measure)
                    if value is None:
                        continue
                    seeds = value["seeds"]
                    axis.plot(seeds, [place] * len(seeds), "o", color=COLOURS["model"], alpha=0.6)
                    axis.plot(
                        [value["mean"]] * 2, [place - 0.3, place + 0.3], color=COLOURS["model"]
                    )
                for name in BASELINES:
                    value = of_direction.get(name, {}).get(measure)
                    if value is not None and math.isfinite(value["mean"]):
                        axis.axvline(value["mean"], color=COLOURS[name], label=LABELS[name])
                axis.set_yticks(range(len(arms)), arms)
                axis.set_ylim(-0.6, len(arms) - 0.4)
                arrow = "→" if COLUMNS[measure][2] else "←"
                axis.set_xlabel(f"{COLUMNS[measure][0]}, {arrow} better")
                axis.grid(True, axis="x", color="#e6e8eb", linewidth=0.7)
                axis.spines[["top", "right"]].set_visible(False)
                if measure == measures[0]:
                    axis.set_title(key.replace("_to_", " → "), fontsize=10)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside upper left", ncols=2, frameon=False)
        save(figure, self.path / FIGURE)


def _digits(value: float | None) -> str:
    """A number in a table; empty if there is none."""
    return "" if value is None else f"{value:.6g}"


def _over_seeds(
    scans: HeldOutScans, runs: list[dict[str, Any]], key: str, over_subjects: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The scores of an arm in one direction: means of subjects, then of seeds."""
    values: dict[str, list[float]] = {measure: [] for measure in COLUMNS}
    for run in runs:
        scored = from_tables(scans.cases, [run["table"]], None)
        scores, cycles = summary.summarise(scored), summary.summarise(scored, "cycle")
        if key in scores:
            for measure in MEASURES:
                values[measure].append(scores[key]["model"]["fit"][measure]["mean"])
        values["cycle_psnr"].append(cycles[key]["cycle"]["fit"]["psnr"]["mean"])
        if key in run["wasserstein"]:
            values["wasserstein"].append(run["wasserstein"][key])
    result = {}
    for measure, seeds in values.items():
        if seeds:
            std = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None
            mean = float(np.mean(seeds))
            result[measure] = {"mean": mean, "std": std, "n": len(seeds), "seeds": seeds}
            if measure in MEASURES:
                subjects = over_subjects[key]["model"]["fit"][measure]["std"]
                result[measure]["subjects_std"] = subjects
    return result


def _of_baseline(
    fixed: Mapping[str, Any], distances: Mapping[str, Any], key: str, method: str
) -> dict[str, dict[str, Any]]:
    """The scores of a baseline, which no seed changes."""
    result = {}
    if method in fixed.get(key, {}):
        for measure in MEASURES:
            value = fixed[key][method]["fit"][measure]
            std = value["std"]
            result[measure] = {"mean": value["mean"], "std": None, "n": 1, "subjects_std": std}
    if method in distances.get(key, {}):
        result["wasserstein"] = {"mean": distances[key][method], "std": None, "n": 1}
    return result


def _ranked(
    means: Means, names: list[str], measure: str
) -> tuple[tuple[str, ...], dict[str, tuple[float, float | None]]]:
    """Arms, best first, and the difference of each from the first."""
    of_arm: dict[str, tuple[float, float | None]] = {}
    for name in names:
        rows = [
            of_direction[name][measure]
            for of_direction in means.values()
            if measure in of_direction[name]
        ]
        # The seeds of both directions together: the arm's score with each seed.
        seeds = np.mean([row["seeds"] for row in rows], axis=0) if rows else np.array([math.nan])
        std = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None
        of_arm[name] = float(np.mean(seeds)), std
    sign = 1 if COLUMNS[measure][2] else -1
    ranking = sorted(names, key=lambda name: sign * of_arm[name][0], reverse=True)
    first, first_std = of_arm[ranking[0]]
    differences = {}
    for name in ranking[1:]:
        score, std = of_arm[name]
        both = None if std is None or first_std is None else math.hypot(std, first_std)
        differences[name] = (sign * (first - score), both)
    return tuple(ranking), differences
