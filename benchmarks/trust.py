"""How far to believe the synthetic scans of a model: the figures of docs/explanation/trust.md.

    python -m benchmarks.trust [--model shipped] [--data ../shared/data]
        [--sets ms simulated clinical] [--subjects 6] [--keep DIR]
        [--out benchmarks/results/trust.jsonl]
    python -m benchmarks.trust --table benchmarks/results/trust.jsonl

One JSON line a set: what `mrbridge evaluate` measures apart from scores (lesions, tissues,
registration, sharpness, power spectrum, PSNR and SSIM of whole pictures), by direction.

- `ms`: the two patients of open-ms-mni with the masks of experts; skull-stripped, 1 mm.
- `simulated`: people of `mrbridge phantom` with lesions of white matter and other pathology; the
  seed is one that no training used.
- `clinical`: the visits of open-ms-raw (thick slices, registered first) and the adult of
  adi-brain-dicom; without lesion masks, and without the registration error, since these pairs are
  not in register.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.harness import keep_line
from benchmarks.research.quality_scores import registered_table
from mrbridge.errors import SomeScansFailed
from mrbridge.evaluation.evaluate import evaluate
from mrbridge.evaluation.result import Evaluation
from mrbridge.evaluation.settings import EvaluateSettings
from mrbridge.models import SHIPPED
from mrbridge.phantom import write_bids
from mrbridge.phantom.settings import PhantomSettings

SEED = 270_000
"""Of the simulated people."""

Found = tuple[Path, Path | None]
"""Pairs, and a folder of lesion masks; None if they are found automatically or do not exist."""


def ms(data: Path, folder: Path, subjects: int) -> Found:
    """A table of the two patients, and their folder, which has the masks."""
    root = data / "open-ms-mni"
    table = folder / "ms.csv"
    with open(table, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("subject", "session", "contrast", "path"))
        for path in sorted(root.glob("patient*/T[12].nii.gz")):
            writer.writerow((path.parent.name, "", f"{path.name[:2]}w", path.resolve()))
    return table, root


def simulated(data: Path, folder: Path, subjects: int) -> Found:
    """A BIDS dataset, whose derivatives have the masks."""
    settings = PhantomSettings(subjects=subjects, seed=SEED, lesions=(5, 25), pathology=0.5)
    return write_bids(folder / "simulated", settings), None


def clinical(data: Path, folder: Path, subjects: int) -> Found:
    """A table of whole heads."""
    return registered_table(data, folder / "clinical", "healthy-head"), None


SETS: dict[str, Callable[[Path, Path, int], Found]] = {
    "ms": ms,
    "simulated": simulated,
    "clinical": clinical,
}


def measured(name: str, model: str, data: Path, folder: Path, subjects: int) -> Evaluation:
    """The evaluation of a model on a set; its files are below `folder`."""
    pairs, lesions = SETS[name](data, folder, subjects)
    settings = EvaluateSettings(cycle=False, registration_error=name != "clinical")
    try:
        return evaluate(model, pairs, folder / f"{name}-report", lesions=lesions, settings=settings)
    except SomeScansFailed as error:
        print(error)
        of_others: Evaluation = error.result
        return of_others


def line(name: str, model: str, result: Evaluation) -> dict[str, Any]:
    """What is kept of an evaluation."""
    return {
        "benchmark": "trust",
        "part": "evaluate",
        "set": name,
        "model": Path(model).name,
        "model_sha256": result.model_sha256,
        "cases": [one.case.name for one in result.cases],
        "failed": [case for case, _ in result.failures],
        "scores": {
            key: {measure: of_model["fit"][measure]["mean"] for measure in ("psnr", "ssim")}
            for key, methods in result.summary.items()
            for of_model in [methods["model"]]
        },
        "measures": _rounded(result.measures),
        "limits_of_agreement": _rounded(result.agreement),
        "lesions": result.lesions,
        "uses": [asdict(use) for use in result.uses],
    }


def table(path: Path) -> str:
    """The newest line of each set and model as tables in Markdown, for docs/explanation."""
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        one = json.loads(text)
        if one.get("part") == "evaluate":
            newest[one["model"], one["set"]] = one
    parts = []
    for (model, name), one in newest.items():
        for direction, measures in one["measures"].items():
            parts.append(f"\n**{name}, {direction.replace('_', ' ')}, model {model}**\n")
            parts += _lesion_rows(one["lesions"].get(direction))
            parts += ["| measure | mean | SD | subjects |", "|---|---|---|---|"]
            for key, value in measures.items():
                spread = "" if value["std"] is None else f"{value['std']:.3g}"
                mean = "∞" if value["mean"] is None else f"{value['mean']:.3g}"
                parts.append(f"| `{key}` | {mean} | {spread} | {value['n']} |")
            for key, limits in one["limits_of_agreement"].get(direction, {}).items():
                if limits["lower"] is not None:
                    both = f"{limits['lower']:.0f} to {limits['upper']:.0f}"
                    parts.append(f"| limits of agreement, `{key}` | {both} | | {limits['n']} |")
    return "\n".join(parts)


def _lesion_rows(counts: dict[str, Any] | None) -> list[str]:
    if counts is None:
        return []
    outcomes = list(counts["all"])
    rows = [f"| in the source | {' | '.join(outcomes)} |", "|---" * (len(outcomes) + 1) + "|"]
    for visibility, row in counts.items():
        cells = [f"{row[key]['number']} ({row[key]['ml']:.2f} ml)" if key in row else ""
                 for key in outcomes]  # fmt: skip
        rows.append(f"| {visibility} | {' | '.join(cells)} |")
    return [*rows, ""]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return value


def main(arguments: list[str] | None = None) -> None:
    """Measure the sets, or show what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=SHIPPED, help="a run, a bundle or shipped")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--subjects", type=int, default=6, help="simulated people")
    parser.add_argument("--keep", type=Path, help="folder for the reports; removed without it")
    parser.add_argument("--out", type=Path, help="append the JSON lines to this file, too")
    parser.add_argument("--table", type=Path, help="only show the lines of this file as tables")
    given = parser.parse_args(arguments)
    if given.table is not None:
        print(table(given.table))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = given.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        for of_set in given.sets:
            result = measured(of_set, given.model, given.data, folder, given.subjects)
            keep_line(line(of_set, given.model, result), given.out)


if __name__ == "__main__":
    main()
