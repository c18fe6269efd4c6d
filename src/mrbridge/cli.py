"""The command line: one command a verb, each a thin layer over the function of its name.

Heavy imports live inside the verbs, so that `mrbridge --help` answers at once; what can be refused
without them (a path at which nothing lies, a folder that is no store) is refused before.
"""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import Abort, TyperException

from mrbridge import __version__, console
from mrbridge.console import answer, complain, listen
from mrbridge.download.command import app as download
from mrbridge.errors import (
    MrbridgeError,
    SettingsError,
    StoreError,
    must_be_here,
    must_be_new,
    must_exist,
)
from mrbridge.models import SHIPPED, locate, weights_file
from mrbridge.options import (
    AllowGaps,
    Assignments,
    BidsFilter,
    Config,
    Dask,
    Device,
    Form,
    Json,
    Model,
    Overwrite,
    Participants,
    Quiet,
    Series,
    Sessions,
    Verbose,
    Workers,
    layered,
    spread,
    who_works,
)
from mrbridge.place_options import place_argument, place_option
from mrbridge.quick_imports import quick_imports

app = typer.Typer(
    name="mrbridge",
    help="Learns from unpaired scans to turn T1-weighted brain MR images into T2-weighted ones and "
    "back. Everything it makes is synthetic: for research, not for diagnosis.",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(download)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"mrbridge {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(epilog="Example: mrbridge demo -o demo --minutes 5")
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="A new folder.")],
    minutes: Annotated[float, typer.Option(min=0.2, help="How long all of it may take.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other subjects.")] = 0,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """The whole chain on simulated subjects: phantom, prepare, train, translate, evaluate."""
    listen(quiet, verbose, as_json)
    must_be_new(out)
    with quick_imports():
        from mrbridge.demo import run_demo

    summary = run_demo(out, minutes=minutes, seed=seed)
    answer(summary, f"{summary['note']}\nThe report: {out / 'report.html'}")


@app.command(epilog="Example: mrbridge phantom -o phantom --subjects 8")
def phantom(
    out: Annotated[Path, typer.Option("-o", "--out", help="The BIDS data set to make.")],
    subjects: Annotated[int | None, typer.Option(min=1, help="How many subjects.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Same seed, same subjects.")] = None,
    config: Config = None,
    assignments: Assignments = None,
    workers: Workers = 1,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Simulate subjects whose T1w and T2w are in register, as a BIDS data set."""
    listen(quiet, verbose, as_json)
    changes = layered(config, assignments, {"subjects": subjects, "seed": seed})
    with quick_imports():
        from mrbridge.phantom import PhantomSettings, write_bids

    settings = PhantomSettings().changed(changes)
    path = write_bids(out, settings, workers=workers, overwrite=overwrite)
    answer(
        {"path": str(path), "subjects": settings.subjects},
        f"{settings.subjects} subjects in {path}",
    )


@app.command(epilog="Example: mrbridge prepare bids -o store --workers 2")
def prepare(
    source_paths: Annotated[
        list[Path],
        place_argument(
            "SRC…",
            help="A BIDS data set; a folder with a folder for each contrast; two folders, source "
            "contrast first; a folder or zip of DICOM files; or a CSV table (subject, session, "
            "contrast, path). Any by path or URL, such as s3://bucket/bids.",
        ),
    ],
    out: Annotated[Path, place_option("-o", "--out", help="The store.")],
    source: Annotated[str | None, typer.Option(help="Source contrast [T1w].")] = None,
    target: Annotated[str | None, typer.Option(help="Target contrast [T2w].")] = None,
    registration: Annotated[
        str | None,
        typer.Option(
            "--register",
            help="Bring each subject's target contrast onto its source's grid: none, rigid or "
            "affine [none].",
        ),
    ] = None,
    brain: Annotated[
        str | None,
        typer.Option(
            help="Leave the brain alone, all else becomes 0: none, auto, hd-bet (the program) or "
            "mask (yours) [none]."
        ),
    ] = None,
    brain_mask: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Where masks lie, from the scan's folder [{entities}_desc-brain_mask.nii.gz].",
        ),
    ] = None,
    align: Annotated[
        str | None,
        typer.Option(help="Slices along the ICBM template's axes: none, rigid or affine [none]."),
    ] = None,
    denoise: Annotated[
        bool | None,
        typer.Option("--denoise/--no-denoise", help="Take away noise [no-denoise]."),
    ] = None,
    bias: Annotated[
        str | None, typer.Option(help="Even out the coil's brightness: none or n4 [none].")
    ] = None,
    intensity: Annotated[
        str | None,
        typer.Option(help="How ranges are found: percentile, nyul or zscore [percentile]."),
    ] = None,
    slices: Annotated[
        str | None,
        typer.Option(
            metavar="FROM:TO",
            help="Which slices: 20%:80% of those that show the head, or -40mm:60mm [all].",
        ),
    ] = None,
    config: Config = None,
    assignments: Assignments = None,
    workers: Workers = 1,
    dask: Dask = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Turn scans into a store that is fit to train on; run again, it does only what changed."""
    listen(quiet, verbose, as_json)
    for path in source_paths:
        must_exist(path)
    crew = who_works(workers, dask)
    named = {"source": source, "target": target, "registration": registration, "slices": slices}
    cleaned = {
        "brain": brain,
        "brain_mask": brain_mask,
        "align": align,
        "denoise": denoise,
        "bias": bias,
    }
    standard: dict[str, Any] = {key: value for key, value in cleaned.items() if value is not None}
    if intensity is not None:
        standard["intensity"] = {"method": intensity}
    changes = layered(config, assignments, named | {"standard": standard or None})
    with quick_imports():
        from mrbridge.preparation.pipeline import PrepareSettings
        from mrbridge.preparation.pipeline import prepare as run

    settings = PrepareSettings().changed(changes)
    paths = source_paths[0] if len(source_paths) == 1 else source_paths
    store = run(paths, out, settings, workers=crew)
    told: dict[str, Any] = {"path": str(store.path), "ignored": len(store.manifest.ignored)}
    for contrast in (settings.source, settings.target):
        told[contrast] = {
            split: sum(
                stop - start
                for record in store.records(contrast=contrast, split=split)
                for start, stop in record.segments[split]
            )
            for split in ("train", "val", "test")
        }
    told["subjects"] = store.counts()
    words = ", ".join(
        f"{contrast} {told[contrast]['train']} slices to train, {told[contrast]['val']} to "
        f"validate, {told[contrast]['test']} to test"
        for contrast in (settings.source, settings.target)
    )
    words += f"; {_spread_of(told['subjects'])}"
    answer(told, f"{store.path}: {words}; {told['ignored']} files ignored")


def _spread_of(counts: dict[str, dict[str, int]]) -> str:
    """How many slices subjects have, in words."""
    sums = sorted(sum(of_one.values()) for of_one in counts.values())
    several = f"{sums[0]} to {sums[-1]}" if sums[0] < sums[-1] else str(sums[0])
    return f"{len(sums)} subject{'s' if len(sums) > 1 else ''} of {several} slices"


@app.command(epilog="Example: mrbridge inspect bids -o report.html --workers 2")
def inspect(
    path: Annotated[
        Path,
        place_argument(
            "SRC|STORE",
            help="A BIDS data set, a folder of NIfTI files or pictures, a table, a folder or zip "
            "of DICOM files, one scan, or a prepared store.",
        ),
    ],
    out: Annotated[
        Path | None,
        place_option(
            "-o",
            "--out",
            help="Also look at the images, and write this page (.html).",
        ),
    ] = None,
    fix: Annotated[
        Path | None,
        place_option(
            help="Also look at the images, and write a table (.csv) for prepare that leaves out "
            "exact copies and what cannot be read. The source is not changed.",
        ),
    ] = None,
    workers: Workers = 1,
    dask: Dask = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Tell what is there and what is wrong; without -o or --fix only headers are read."""
    listen(quiet, verbose, as_json)
    must_exist(path)
    crew = who_works(workers, dask)
    if out is None and fix is None:
        from mrbridge.preparation.inspect import inspect as list_headers

        listed = list_headers(path)
        answer(listed.told(), listed.words())
        return
    with quick_imports():
        from mrbridge.inspection.command import run

    answer(*run(path, out, fix, crew))


@app.command(epilog="Example: mrbridge train store -o run --preset unet --set epochs=30")
def train(
    store: Annotated[Path, place_argument("STORE", help="A prepared store, by path or URL.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The run's folder.")],
    preset: Annotated[
        str | None, typer.Option(help="bridge, unet, resunet or resnet [bridge].")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", help="First weights: shipped, scratch, a run or a bundle [auto]."),
    ] = None,
    config: Config = None,
    assignments: Assignments = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where it stopped.")] = False,
    device: Device = "auto",
    devices: Annotated[
        int, typer.Option(min=1, help="Processes that train together, each on a device of its own.")
    ] = 1,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Train a CycleGAN. RUN/bundle is ready at any time from the first validation on."""
    from mrbridge.training.names import check_preset, is_follower, refuse_foreign, refuse_url

    refuse_url(out)
    listen(quiet or is_follower(), verbose, as_json and not is_follower())
    must_exist(store, StoreError, "Run mrbridge prepare first.")
    if resume and start is not None:
        raise SettingsError(
            "a resumed run has weights already", path=out, remedy="Leave out --from, or --resume."
        )
    if start not in (None, "auto", "scratch"):
        locate(start, "Say auto, shipped or scratch, or name a run or a bundle.")
    changes = layered(config, assignments, {})
    if preset is not None:
        check_preset(preset)
    if not resume and not is_follower():
        refuse_foreign(out)
    with quick_imports():
        from mrbridge.preparation.store import Store

    opened = Store.open(store)
    with quick_imports():
        from mrbridge.training.run import train as run
        from mrbridge.training.settings import resolve

    if resume:
        if preset is not None:
            changes["preset"] = preset
        given: dict[str, Any] = {"resume": True, "changes": changes}
    else:
        given = {"settings": resolve(preset, changes)} | ({} if start is None else {"start": start})
    if devices > 1:
        from mrbridge.training.together import train_together

        result = train_together(devices, opened.path, out, device=device, **given)
    else:
        result = run(opened, out, device=device, **given)
    last = result.rows[-1] if result.rows else {}
    words = f"{out}: {int(last.get('epoch', 0))} epochs; the model is in {out / 'bundle'}"
    told = {"path": str(out), "bundle": str(out / "bundle"), "last": last}
    answer(told | {"kept_beginning": result.kept_beginning}, words)


@app.command(epilog="Example: mrbridge translate -i sub-01_T1w.nii.gz -o sub-01_T2w.nii.gz")
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
        bool, typer.Option("--force", help="Also what is synthetic or of that contrast already.")
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

    done = run(
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
    outputs = [str(item.output) for item in done]
    skipped = sum(item.skipped for item in done)
    told: dict[str, Any] = {"outputs": outputs, "model": done[0].model, "skipped": skipped}
    words = f"{len(outputs) - skipped} translated"
    if skipped:
        words += f", {skipped} skipped that were done already"
    answer(told, f"{words}: {outputs[0] if len(outputs) == 1 else out}")


@app.command(epilog="Example: mrbridge evaluate -m run --pairs bids -o scores")
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
    config: Config = None,
    assignments: Assignments = None,
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
    changes = layered(config, assignments, {"registration": registration})
    from mrbridge.evaluation.settings import EvaluateSettings

    settings = EvaluateSettings().changed(changes)
    with quick_imports():
        from mrbridge.evaluation.evaluate import evaluate as run

    result = run(
        model=model,
        pairs=pairs,
        real=real,
        synthetic=synthetic,
        mask=mask,
        out=out,
        settings=settings,
        device=device,
        workers=who_works(workers, dask),
    )
    answer(
        {
            "report": str(out / "report.html"),
            "model": result.model_sha256,
            "summary": result.summary,
        },
        f"The report: {out / 'report.html'}",
    )


@app.command(epilog="Example: mrbridge export -m run --to onnx -o exported")
def export(
    model: Annotated[Path, typer.Option("-m", "--model", help="A run or a bundle, or shipped.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="A folder.")],
    to: Annotated[str, typer.Option(help="The format: onnx.")] = "onnx",
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Write both generators for other runtimes."""
    listen(quiet, verbose, as_json)
    locate(model)
    with quick_imports():
        from mrbridge.inference.export import export as run

    outputs = [str(path) for path in run(model, out, to=to)]
    answer({"outputs": outputs}, f"written: {' and '.join(outputs)}")


@app.command(epilog="Example: mrbridge info unet --json")
def info(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|PRESET", help="A run, a bundle, shipped or a preset.")
    ] = SHIPPED,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Tell what a model or preset is: networks, parameters, data, scores, settings."""
    listen(quiet, verbose, as_json)
    from mrbridge.training.names import PRESET_NAMES, check_preset

    must_be_here(model, "Copy the model to this machine first.")
    if model in PRESET_NAMES or not (model == SHIPPED or Path(model).exists()):
        check_preset(model)
        import yaml

        with quick_imports():
            from mrbridge.training.settings import preset

        settings = preset(model)
        told = {"preset": model} | settings.networks.describe()
        counts = [f"{name} {told[name]:,}" for name in ("generator", "critic", "total")]
        numbers = f"parameters: {', '.join(counts)} (two of each)"
        text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
        answer(told | {"settings": settings.model_dump(mode="json")}, f"{text}# {numbers}")
        return
    with quick_imports():
        from mrbridge.bundle import card, read_manifest

    manifest = read_manifest(model)
    answer(manifest.model_dump(mode="json") | manifest.networks.describe(), card(manifest))


def main(arguments: Sequence[str] | None = None, program: typer.Typer | None = None) -> None:
    """Run a command line, this one unless told otherwise, and leave with its exit code."""
    console.set_up()
    # Whatever runs ends as with Ctrl-C: temporary files are removed, the exit code is 3.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    code = _run(arguments, program)
    # Python looks through all objects for cycles once more before it ends: a second, with PyTorch.
    gc.freeze()
    sys.exit(code)


def _run(arguments: Sequence[str] | None, program: typer.Typer | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    try:
        (program or app)(args=spread(given), standalone_mode=False)
    except MrbridgeError as error:
        complain(str(error))
        return error.exit_code
    except TyperException as error:
        context = getattr(error, "ctx", None)  # only errors of usage know their command
        hint = f" Try '{context.command_path} -h'." if context else ""
        complain(f"{error.format_message().removesuffix('.')}.{hint}")
        return 2
    except (KeyboardInterrupt, Abort):
        complain("interrupted")
        return 3
    except OSError as error:
        complain(f"{error.filename or ''}: {error.strerror or error}. Check space and permissions.")
        return 2
    return 0


if __name__ == "__main__":
    main()
