"""The verbs at work on images: translate, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mrbridge.console import answer, as_far_as_done, interruption_of, listen
from mrbridge.errors import SettingsError, must_exist
from mrbridge.models import locate, weights_file
from mrbridge.options import (
    AllowGaps,
    Assignments,
    BidsFilter,
    Config,
    Dask,
    Device,
    Force,
    Form,
    Json,
    Model,
    Overwrite,
    OverwriteFiles,
    Participants,
    Quiet,
    Series,
    Sessions,
    Verbose,
    Workers,
    layered,
    who_works,
)
from mrbridge.place_options import place_option
from mrbridge.quick_imports import quick_imports


def translate(
    image: Annotated[
        Path,
        place_option(
            "-i",
            "--in",
            help="A picture, a NIfTI file, a folder of them, a BIDS data set, or a DICOM folder "
            "or zip.",
        ),
    ],
    out: Annotated[Path, place_option("-o", "--out", help="A file for a file, else a folder.")],
    model: Model = None,
    to: Annotated[
        str | None, typer.Option(help="The contrast to make [the one that the scan is not].")
    ] = None,
    match: Annotated[
        Path | None, place_option(help="A scan whose range of intensities the result gets.")
    ] = None,
    device: Device = "auto",
    engine: Annotated[str, typer.Option(help="What computes: auto, torch or onnx.")] = "auto",
    planes: Annotated[
        str | None,
        typer.Option(help="How volumes are cut: axial, or all three, slower [the model's way]."),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Also what is synthetic or of that contrast already, or is something else by its "
            "name or header: a mask, a map, a scan after a contrast agent.",
        ),
    ] = False,
    volume: Annotated[int | None, typer.Option(min=0, help="Which volume of a 4D file.")] = None,
    assume: Annotated[
        str | None, typer.Option(help="Orientation of a file that states none, such as RAS.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Numbers of volumes: float32, int16, uint16, uint8 or int32.")
    ] = "float32",
    participant_label: Participants = None,
    session_label: Sessions = None,
    bids_filter_file: BidsFilter = None,
    overwrite: Overwrite = False,
    series: Series = None,
    allow_gaps: AllowGaps = False,
    form: Form = None,
    workers: Workers = 1,
    dask: Dask = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Translate scans into the other contrast, each on its own grid."""
    listen(quiet, verbose, as_json)
    place = locate(model)
    must_exist(image, remedy="Check the name.")
    for path in (match, bids_filter_file):
        if path is not None:
            must_exist(path)
    with quick_imports():
        from mrbridge.inference.integers import check_number_type
        from mrbridge.inference.planes import check_planes
        from mrbridge.io.safety import begin_sha256

    check_number_type(dtype)
    check_planes(planes)
    weights = weights_file(place)
    if weights is not None:
        begin_sha256(weights)  # on another core while PyTorch is imported
    with quick_imports():
        from mrbridge.inference.translate import translate as run

    done, failure = as_far_as_done(
        lambda: run(
            model,
            image,
            out,
            to=to,
            match=match,
            device=device,
            engine=engine,
            planes=planes,
            force=force,
            volume=volume,
            assume=assume,
            dtype=dtype,
            participants=participant_label or (),
            sessions=session_label or (),
            bids_filter=bids_filter_file,
            overwrite=overwrite,
            series=series,
            allow_gaps=allow_gaps,
            form=form,
            workers=who_works(workers, dask),
        )
    )
    outputs = [str(item.output) for item in done if item.output is not None]
    failed = {str(item.source): item.error for item in done if item.error}
    skipped = sum(item.skipped for item in done)
    words = f"{len(outputs) - skipped} translated"
    if skipped:
        words += f", {skipped} skipped that were done already"
    told = {
        "outputs": outputs,
        "model": done[0].model if done else None,
        "skipped": skipped,
        "failed": failed,
    }
    answer(told | interruption_of(failure), f"{words}: {outputs[0] if len(outputs) == 1 else out}")
    if failure:
        raise failure


def evaluate(
    out: Annotated[Path, place_option("-o", "--out", help="Where tables and report go.")],
    model: Model = None,
    pairs: Annotated[
        Path | None, place_option(help="Scans with both contrasts: BIDS, folder or table.")
    ] = None,
    real: Annotated[Path | None, place_option(help="Real scans: a file or a folder.")] = None,
    synthetic: Annotated[Path | None, place_option(help="Their syntheses.")] = None,
    mask: Annotated[Path | None, place_option(help="Where to score: a file or a folder.")] = None,
    registration: Annotated[
        str | None,
        typer.Option(
            "--register", help="Pairs that are not on one grid: auto, off, rigid, affine."
        ),
    ] = None,
    force: Force = False,
    config: Config = None,
    assignments: Assignments = None,
    overwrite: OverwriteFiles = False,
    device: Device = "auto",
    workers: Workers = 1,
    dask: Dask = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Score a model on pairs of scans, or syntheses against real scans."""
    listen(quiet, verbose, as_json)
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
    changes = layered(config, assignments, {"registration": registration})
    from mrbridge.evaluation.settings import EvaluateSettings

    settings = EvaluateSettings().changed(changes)
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
