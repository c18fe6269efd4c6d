"""The verb `demo`: the whole chain on simulated subjects, without a network."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from typing import Any

from mrbridge.errors import Interrupted, must_be_here, must_be_new
from mrbridge.evaluation.evaluate import evaluate
from mrbridge.inference.translate import translate
from mrbridge.io.bids import find_scans
from mrbridge.io.ownership import check_only
from mrbridge.io.safety import write_json, write_text
from mrbridge.phantom import PhantomSettings, write_bids
from mrbridge.preparation.pipeline import PrepareSettings, StandardSettings, prepare
from mrbridge.preparation.store import Store
from mrbridge.settings import Settings
from mrbridge.training.run import train
from mrbridge.training.settings import TrainSettings, resolve
from mrbridge.volume import Planes

log = logging.getLogger(__name__)

_NOTE = (
    "Simulated subjects, synthetic images: for research, not for diagnosis. The preset learns from "
    "other simulated subjects besides, so these scores say that the chain works, not how well real "
    "scans are translated."
)


class DemoSettings(Settings):
    """What the demo leaves out for speed: everything is at 2 mm.

    Attributes:
        subjects: how many are simulated; two are kept for the report, two for validation.
        spacing_mm: of the simulated scans and of the slices that the networks see.
        few_subjects: how many when there are less than two minutes in all; volumes are then cut in
            one plane instead of three.
        reserve_seconds: what starting the training, translation and evaluation take.
        least_training_seconds: trained at least so long, however short the time.
    """

    subjects: int = 12
    few_subjects: int = 8
    spacing_mm: float = 2.0
    reserve_seconds: float = 90.0
    least_training_seconds: float = 12.0


FILES = (
    *("phantom/*", "store/*", "run/*", "translated/*", "scores/*"),
    *("test.csv", "report.html", "summary.json"),
)
"""What a demo leaves, as patterns."""


def run_demo(
    out: str | Path, *, minutes: float = 5.0, seed: int = 0, overwrite: bool = False
) -> dict[str, Any]:
    """Simulate, prepare, train, translate, evaluate.

    Args:
        out: a new folder; `phantom`, `store`, `run`, `translated`, `scores`, `report.html` and
            `summary.json` appear in it.
        minutes: how long all of it may take.
        seed: of subjects, splits and training.
        overwrite: replace an earlier demo in `out`.

    Returns:
        What `summary.json` holds: scores of the model and of the floor in both directions, and the
        seconds that each stage took.

    Raises:
        OutputError: the folder is not empty.
        Interrupted: a signal came; `summary.json` tells which stages are done.
    """
    out = Path(out)
    if overwrite and out.exists():
        must_be_here(out)
        check_only(out, FILES)
        shutil.rmtree(out)
    must_be_new(out)
    stages = _Stages()
    try:
        return _run(out, minutes, seed, stages)
    except (KeyboardInterrupt, Interrupted):
        if stages.seconds:
            write_json(out / "summary.json", {"interrupted": True, "seconds": stages.seconds})
        done = ", ".join(stages.seconds) or "nothing"
        raise Interrupted(
            f"interrupted; {done} done",
            path=out,
            remedy="Begin again in a new folder.",
            counts={"stages": len(stages.seconds)},
        ) from None


def _run(out: Path, minutes: float, seed: int, stages: _Stages) -> dict[str, Any]:
    settings = DemoSettings()
    is_short = minutes < 2
    subjects = settings.few_subjects if is_short else settings.subjects
    bids = write_bids(
        out / "phantom",
        PhantomSettings(subjects=subjects, spacing_mm=settings.spacing_mm, seed=seed),
    )
    stages.end("phantom")
    share = 2 / subjects
    store = prepare(
        bids,
        out / "store",
        PrepareSettings(
            standard=StandardSettings(spacing_mm=settings.spacing_mm),
            validation_share=share,
            test_share=share,
            seed=seed,
        ),
    )
    stages.end("prepare")
    left = 60 * minutes - stages.total() - settings.reserve_seconds
    trained_for = max(left, settings.least_training_seconds) / 60
    run = train(store, out / "run", _training(trained_for, seed, "axial" if is_short else "all"))
    stages.end("train")
    table = _test_table(bids, store, out / "test.csv")
    for scan in find_scans(
        table, store.manifest.settings.source, store.manifest.settings.target
    ).scans:
        translate(scan.path, out / "translated", model=run.path)
    stages.end("translate")
    scored = evaluate(model=run.path, pairs=table, out=out / "scores")
    stages.end("evaluate")

    report = out / "report.html"
    write_text(report, (out / "scores" / "report.html").read_text(encoding="utf-8"))
    summary: dict[str, Any] = {
        "note": _NOTE,
        "report": str(report),
        "minutes": minutes,
        "seed": seed,
        "scores": scored.summary,
        "seconds": stages.seconds | {"all": round(stages.total(), 2)},
    }
    write_json(out / "summary.json", summary)
    return summary


class _Stages:
    """How long each stage took."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self.seconds: dict[str, float] = {}

    def end(self, stage: str) -> None:
        now = time.monotonic()
        self.seconds[stage] = round(now - self._last, 2)
        log.info("%s: %.0f s", stage, now - self._last)
        self._last = now

    def total(self) -> float:
        return time.monotonic() - self._began


def _training(minutes: float, seed: int, planes: Planes) -> TrainSettings:
    """The default preset for images of 2 mm, from the model that comes with mrbridge."""
    return resolve(
        "bridge",
        {
            "networks": {"image_size": 128},
            "minutes": minutes,
            "steps_per_epoch": 100,
            "validation_slices": 16,
            "planes": planes,
            "seed": seed,
        },
    )


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
