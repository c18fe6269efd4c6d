"""The verb `demo`: the whole pipeline on simulated subjects, without a network."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from typing import Any

from mrbridge.dataset.prepare import prepare
from mrbridge.dataset.settings import PrepareSettings
from mrbridge.dataset.store import Store
from mrbridge.errors import Interrupted, must_be_here, must_be_new
from mrbridge.evaluation.evaluate import evaluate
from mrbridge.inference.translate import translate
from mrbridge.io.atomic import write_json, write_text
from mrbridge.io.bids import find_scans
from mrbridge.io.ownership import check_only
from mrbridge.phantom import PhantomSettings, write_bids
from mrbridge.preprocessing.settings import PreprocessSettings
from mrbridge.training.run import train

log = logging.getLogger(__name__)

_NOTE = (
    "Simulated subjects, synthetic images: for research, not for diagnosis. The preset learns from "
    "other simulated subjects too, so these scores show that the chain works, not how well real "
    "scans are translated."
)

FILES = (
    *("phantom/*", "store/*", "run/*", "translated/*", "scores/*"),
    *("test.csv", "report.html", "summary.json"),
)
"""The files of a demo, as patterns."""

_SPACING_MM, _IMAGE_SIZE = 2.0, 128
_SUBJECTS, _FEW_SUBJECTS = 12, 8  # two of them for validation, two for the report
_SHORT_MINUTES = 2.0  # below, fewer subjects, and volumes are sliced in one plane instead of three
_RESERVED_SECONDS = 90.0  # for the start of the training, translation and evaluation
_LEAST_TRAINING_SECONDS = 12.0


def run_demo(
    out: str | Path, *, minutes: float = 5.0, seed: int = 0, overwrite: bool = False
) -> dict[str, Any]:
    """Simulate, prepare, train, translate, evaluate.

    Args:
        out: a new folder, for `phantom`, `store`, `run`, `translated`, `scores`, `report.html` and
            `summary.json`.
        minutes: for the whole demo.
        seed: of subjects, splits and training.
        overwrite: replace an earlier demo in `out`.

    Returns:
        The content of `summary.json`: scores of the model and of the monotone baseline in both
        directions, and the seconds that each stage took.

    Raises:
        OutputError: the folder is not empty.
        Interrupted: a signal came; `summary.json` names the stages that are done.
    """
    out = Path(out)
    if overwrite and out.exists():
        must_be_here(out)
        check_only(out, FILES)
        shutil.rmtree(out)
    must_be_new(out)
    seconds: dict[str, float] = {}
    try:
        return _run(out, minutes, seed, seconds)
    except (KeyboardInterrupt, Interrupted):
        if seconds:
            write_json(out / "summary.json", {"interrupted": True, "seconds": seconds})
        done = ", ".join(seconds) or "nothing"
        raise Interrupted(
            f"interrupted; {done} done",
            path=out,
            remedy="Start again in a new folder.",
            counts={"stages": len(seconds)},
        ) from None


def _run(out: Path, minutes: float, seed: int, seconds: dict[str, float]) -> dict[str, Any]:
    began = time.monotonic()
    is_short = minutes < _SHORT_MINUTES
    subjects = _FEW_SUBJECTS if is_short else _SUBJECTS
    phantom = PhantomSettings(subjects=subjects, spacing_mm=_SPACING_MM, seed=seed)
    bids = write_bids(out / "phantom", phantom)
    _end("phantom", seconds, began)
    settings = PrepareSettings(
        standard=PreprocessSettings(spacing_mm=_SPACING_MM),
        validation_share=2 / subjects,
        test_share=2 / subjects,
        seed=seed,
    )
    store = prepare(bids, out / "store", settings)
    _end("prepare", seconds, began)
    left = 60 * minutes - (time.monotonic() - began) - _RESERVED_SECONDS
    run = train(
        store,
        out / "run",
        networks={"image_size": _IMAGE_SIZE},
        minutes=max(left, _LEAST_TRAINING_SECONDS) / 60,
        steps_per_epoch=100,
        validation_slices=16,
        planes="axial" if is_short else "all",
        seed=seed,
    )
    _end("train", seconds, began)
    table = _test_table(bids, store, out / "test.csv")
    for scan in find_scans(table, store.contrasts).scans:
        translate(scan.path, out / "translated", model=run.path)
    _end("translate", seconds, began)
    evaluation = evaluate(model=run.path, pairs=table, out=out / "scores")
    _end("evaluate", seconds, began)

    report = out / "report.html"
    write_text(report, (out / "scores" / "report.html").read_text(encoding="utf-8"))
    summary: dict[str, Any] = {
        "note": _NOTE,
        "report": str(report),
        "minutes": minutes,
        "seed": seed,
        "scores": evaluation.summary,
        "seconds": seconds | {"all": round(time.monotonic() - began, 2)},
    }
    write_json(out / "summary.json", summary)
    return summary


def _end(stage: str, seconds: dict[str, float], began: float) -> None:
    seconds[stage] = round(time.monotonic() - began - sum(seconds.values()), 2)
    log.info("%s: %.0f s", stage, seconds[stage])


def _test_table(bids: Path, store: Store, table: Path) -> Path:
    """The scans of the test subjects, as a table of paths."""
    lines = ["subject,contrast,path"]
    lines += [
        f"{record.subject},{record.contrast},{path.relative_to(table.parent)}"
        for record in store.records(split="test")
        for path in sorted(bids.glob(f"sub-*/anat/{record.name}"))
    ]
    write_text(table, "\n".join(lines) + "\n")
    return table
