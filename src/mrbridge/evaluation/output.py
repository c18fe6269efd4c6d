"""What an evaluation writes: figures, tables and the report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mrbridge import __version__
from mrbridge.evaluation import figures
from mrbridge.evaluation.cases import Direction
from mrbridge.evaluation.result import Evaluation, Scored, finite, with_scores
from mrbridge.evaluation.scoring import Job
from mrbridge.io.atomic import read_json, write_json, write_text
from mrbridge.io.names import folded
from mrbridge.io.ownership import is_ours, must_be_ours, must_be_writable
from mrbridge.io.remote import remove
from mrbridge.io.temporary import sweep

REPORT = "report.json"
"""The scores so far of an evaluation that was interrupted."""

_FIGURES = re.compile(r"_(slices|by-slice|by-case|joint-histogram|lesions|reliability)\.png$")


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
