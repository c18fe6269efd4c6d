"""The verbs translate and evaluate."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mrbridge.console import answer, as_far_as_done, interruption_of
from mrbridge.errors import SettingsError, must_exist
from mrbridge.models import UNNAMED, locate
from mrbridge.options import (
    Dask,
    Device,
    Force,
    Model,
    OverwriteFiles,
    Workers,
    verb,
    who_works,
)
from mrbridge.place_options import place_option
from mrbridge.quick_imports import quick_imports

if TYPE_CHECKING:
    from mrbridge.evaluation.settings import EvaluateSettings
    from mrbridge.inference.settings import TranslateSettings

log = logging.getLogger(__name__)


@verb("mrbridge.inference.settings.TranslateSettings")
def translate(
    image: Annotated[
        Path,
        place_option(
            "-i",
            "--in",
            help="A 2D image, a NIfTI file, a folder of them, a BIDS dataset, or a DICOM folder "
            "or zip.",
        ),
    ],
    out: Annotated[
        Path, place_option("-o", "--out", help="A file for a file, otherwise a folder.")
    ],
    settings: TranslateSettings,
    model: Model = None,
    match: Annotated[
        Path | None, place_option(help="A scan whose intensity range the result gets.")
    ] = None,
    device: Device = "auto",
    workers: Workers = 1,
    dask: Dask = None,
) -> None:
    """Translate scans into the other contrast, each on its own grid."""
    run_translate(image, out, model, settings, match, device, who_works(workers, dask))


def run_translate(
    image: Path,
    out: Path,
    model: Path | None,
    settings: TranslateSettings,
    match: Path | None = None,
    device: str = "auto",
    workers: int | str = 1,
) -> None:
    """Translate, and print the result; of the BIDS App, too."""
    place = locate(model)
    must_exist(image, remedy="Check the name.")
    for path in (match, settings.bids_filter):
        if path is not None:
            must_exist(path)
    if model is None:
        log.info(UNNAMED)
    with quick_imports():
        from mrbridge.inference.translate import translate as run

    done, failure = as_far_as_done(
        lambda: run(
            image, out, model=place, settings=settings, match=match, device=device, workers=workers
        )
    )
    outputs = [str(item.output) for item in done if item.output is not None]
    skipped = sum(item.skipped for item in done)
    summary = f"{len(outputs) - skipped} translated"
    if skipped:
        summary += f", {skipped} skipped that were done already"
    result = {
        "outputs": outputs,
        "model": done[0].model if done else None,
        "skipped": skipped,
        "failed": {str(item.source): item.error for item in done if item.error},
    }
    answer(
        result | interruption_of(failure), f"{summary}: {outputs[0] if len(outputs) == 1 else out}"
    )
    if failure:
        raise failure


@verb("mrbridge.evaluation.settings.EvaluateSettings", "registration")
def evaluate(
    out: Annotated[Path, place_option("-o", "--out", help="Where tables and report go.")],
    settings: EvaluateSettings,
    model: Model = None,
    pairs: Annotated[
        Path | None, place_option(help="Scans with both contrasts: BIDS, folder or table.")
    ] = None,
    real: Annotated[Path | None, place_option(help="Real scans: a file or a folder.")] = None,
    synthetic: Annotated[
        Path | None, place_option(help="Synthetic images to score against --real.")
    ] = None,
    mask: Annotated[Path | None, place_option(help="Where to score: a file or a folder.")] = None,
    force: Force = False,
    overwrite: OverwriteFiles = False,
    device: Device = "auto",
    workers: Workers = 1,
    dask: Dask = None,
) -> None:
    """Score a model on pairs, or synthetic against real scans."""
    if model is not None:
        locate(model)
    for path in (pairs, real, synthetic, mask):
        if path is not None:
            must_exist(path)
    files = [path for path in (real, synthetic) if path is not None]
    if len(files) != (2 if pairs is None else 0) or (files and model is not None):
        raise SettingsError(
            "what to score is not clear",
            remedy="Use --pairs, with or without --model, or --real and --synthetic.",
        )
    with quick_imports():
        from mrbridge.evaluation.evaluate import Evaluation, score
        from mrbridge.evaluation.evaluate import evaluate as run

    options: dict[str, Any] = {"mask": mask, "settings": settings, "force": force}
    options["workers"] = who_works(workers, dask)

    def work() -> Evaluation:
        if pairs is not None:
            return run(model, pairs, out, device=device, **options)
        return score(files[0], files[1], out=out, **options)

    result, failure = as_far_as_done(work)
    answer(
        {
            "report": str(out / "report.html"),
            "model": result.model_sha256,
            "summary": result.summary,
            "failed": dict(result.failures),
        },
        f"The report: {out / 'report.html'}",
    )
    if failure:
        raise failure
