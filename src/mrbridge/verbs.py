"""The verbs of the command line: thin layers over the functions of the same names.

Their options are in `mrbridge.verb_settings`. Slow imports are inside the verbs, so that
`mrbridge --help` answers at once. What can be refused without them (a path that does not exist, a
folder that is not a store) is refused first.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrbridge.console import answer, answer_url, as_far_as_done
from mrbridge.errors import SettingsError, must_be_here, must_be_new, must_exist
from mrbridge.interruption import quick_imports
from mrbridge.models import SHIPPED, UNNAMED, locate, unnamed
from mrbridge.options import verb
from mrbridge.reports import counted

if TYPE_CHECKING:
    from mrbridge import verb_settings as options_of
    from mrbridge.dataset.settings import PrepareSettings
    from mrbridge.download.folder import Report
    from mrbridge.download.settings import DownloadSettings
    from mrbridge.evaluation.settings import EvaluateSettings
    from mrbridge.inference.settings import TranslateSettings
    from mrbridge.phantom.settings import PhantomSettings
    from mrbridge.study.settings import StudySettings
    from mrbridge.web.settings import Address, ServeSettings

log = logging.getLogger(__name__)

_MOST_REASONS = 10  # shown on the terminal; the store has all


@verb("mrbridge.verb_settings:Demo", "mrbridge demo -o demo --minutes 5")
def demo(options: options_of.Demo) -> None:
    """Run the whole pipeline on simulated subjects.

    It simulates, prepares, trains, translates and evaluates.
    """
    if not options.overwrite:
        must_be_new(options.out)
    with quick_imports():
        from mrbridge.demo import run_demo
        from mrbridge.hardware import keep_memory

    keep_memory()
    summary = run_demo(**dict(options))
    answer(summary, f"{summary['note']}\nThe report: {options.out / 'report.html'}")


@verb("mrbridge.verb_settings:Phantom", "mrbridge phantom -o phantom --subjects 8")
def phantom(options: options_of.Phantom, settings: PhantomSettings) -> None:
    """Simulate scans of several contrasts in register, as a BIDS dataset."""
    with quick_imports():
        from mrbridge.phantom import write_bids

    path = write_bids(options.out, settings, workers=options.workers, overwrite=options.overwrite)
    answer(
        {"path": str(path), "subjects": settings.subjects},
        f"{counted(settings.subjects, 'subject')} in {path}",
    )


@verb("mrbridge.verb_settings:Ixi", "mrbridge download ixi --contrast T1w T2w -o ixi")
def ixi(options: options_of.Ixi, settings: DownloadSettings) -> None:
    """IXI: nearly 600 healthy subjects, T1w, T2w and PDw. CC BY-SA 3.0."""
    must_be_here(options.out)
    from mrbridge.download.ixi import download

    _answer_download(download(options.out, settings))


@verb(
    "mrbridge.verb_settings:OpenNeuro",
    "mrbridge download openneuro ds002330 --version 1.1.0 -o ds002330  "
    "(others with T1w and T2w: ds002382 1.0.1, ds003717 1.0.1, ds003745 1.0.0, ds004285 1.0.0)",
)
def openneuro(options: options_of.OpenNeuro, settings: DownloadSettings) -> None:
    """A dataset of OpenNeuro: the scans of some contrasts and their metadata."""
    must_be_here(options.out)
    from mrbridge.download.openneuro import download

    _answer_download(download(options.dataset, options.out, settings, version=options.version))


def _answer_download(report: Report) -> None:
    answer(report.as_json(), str(report))
    report.raise_if_incomplete()


@verb("mrbridge.verb_settings:Prepare", "mrbridge prepare bids -o store --workers 2")
def prepare(options: options_of.Prepare, settings: PrepareSettings) -> None:
    """Prepare scans for training.

    A second run prepares only what changed.

    Whole subjects are held out. With too few of them, each series of 8 or more slices contributes a
    block of slices to validation; up to 3 slices on either side of it, at most a fifth of the
    series in all, are in no split (none with --set gap=0).
    """
    for path in options.sources:
        must_exist(path)
    workers = options.crew
    with quick_imports():
        from mrbridge.dataset.prepare import prepare as run
        from mrbridge.dataset.store import splits_in_words

    paths = options.sources[0] if len(options.sources) == 1 else list(options.sources)
    more = options.model_dump(include={"overwrite", "force"})
    store, failure = as_far_as_done(
        lambda: run(paths, options.out, settings, workers=workers, **more)
    )
    manifest = store.manifest
    result: dict[str, Any] = {
        "path": str(store.path),
        "ignored": len(manifest.ignored),
        "ignored_because": Counter(remark.reason for remark in manifest.ignored),
        "failed": {remark.name: remark.reason for remark in manifest.failures},
    }
    result |= store.split_counts()
    result["subjects"] = store.counts()
    words = splits_in_words(store.split_counts())
    words += f"; {_slices_per_subject(result['subjects'])}"
    words += f"; {counted(result['ignored'], 'file')} ignored"
    reasons = result["ignored_because"].most_common(_MOST_REASONS)
    because = "".join(f"\n{count} ignored: {reason}" for reason, count in reasons)
    answer(result, f"{store.path}: {words}{because}", failure)


def _slices_per_subject(counts: dict[str, dict[str, int]]) -> str:
    if counts.keys() == {"unknown"}:
        return "no subjects known"
    sums = sorted(sum(of_one.values()) for of_one in counts.values())
    several = f"{sums[0]} to {sums[-1]}" if sums[0] < sums[-1] else str(sums[0])
    return f"{counted(len(sums), 'subject')} of {several} slices"


@verb("mrbridge.verb_settings:Inspect", "mrbridge inspect bids -o report.html --workers 2")
def inspect(options: options_of.Inspect) -> None:
    """List scans from their headers, or check a dataset.

    With -o or --fix, the images are read and checked, too.
    """
    must_exist(options.path)
    workers = options.crew
    with quick_imports():
        from mrbridge.inspection.inspect import inspect as run

    result = run(options.path, options.out, options.fix, workers, overwrite=options.overwrite)
    answer(result.as_json(), str(result))


@verb(
    "mrbridge.verb_settings:Translate",
    "mrbridge translate -i sub-01_T1w.nii.gz -o sub-01_T2w.nii.gz",
)
def translate(options: options_of.Translate, settings: TranslateSettings) -> None:
    """Translate scans into another contrast, each on its own grid."""
    place, workers = locate(options.model), options.crew
    must_exist(options.image, remedy="Check the name.")
    for path in (options.match, options.grid, settings.bids_filter):
        must_exist(path)
    if options.model is None:
        log.info(UNNAMED)
    with quick_imports():
        from mrbridge.bundle import load_bundle
        from mrbridge.inference.translate import translate as run
        from mrbridge.threads import tune_malloc

    tune_malloc(arena_max=1)  # or each thread keeps memory that the others cannot use
    named = options.model_dump(include={"match", "grid", "also", "device"})
    bundle = load_bundle(place, allow_code=options.allow_code)
    named |= {"model": bundle, "settings": settings, "workers": workers}
    done, failure = as_far_as_done(lambda: run(options.image, options.out, **named))
    outputs = [str(item.output) for item in done if item.output is not None]
    skipped = sum(item.skipped for item in done)
    summary = f"{len(outputs) - skipped} translated"
    if skipped:
        summary += f", {skipped} skipped that were done already"
    result = {
        "outputs": outputs,
        "model": done[0].model if done else None,
        "skipped": skipped,
        "verdicts": {
            str(item.source): item.verdict.as_json() for item in done if item.verdict is not None
        },
        "failed": {str(item.source): item.error for item in done if item.error},
    }
    answer(result, f"{summary}: {outputs[0] if len(outputs) == 1 else options.out}", failure)


@verb("mrbridge.verb_settings:Evaluate", "mrbridge evaluate -m run --pairs bids -o scores")
def evaluate(options: options_of.Evaluate, settings: EvaluateSettings) -> None:
    """Score a model on pairs, or synthetic against real scans."""
    model, pairs, out = options.model, options.pairs, options.out
    if model is not None:
        locate(model)
    of_synthetic = options.source, options.uncertainty
    files = [path for path in (options.real, options.synthetic) if path is not None]
    for path in (pairs, *files, options.mask, options.lesions, *of_synthetic):
        must_exist(path)
    if len(files) != (2 if pairs is None else 0) or (files and model is not None):
        raise SettingsError(
            "what to score is not clear",
            remedy="Use --pairs, with or without --model, or --real and --synthetic.",
        )
    if pairs is not None and any(path is not None for path in of_synthetic):
        raise SettingsError(
            "--source and --uncertainty belong to --real and --synthetic",
            remedy="Leave them out: with --pairs, the model translates the scans itself.",
        )
    if files and settings.contrasts:
        raise SettingsError(
            "--contrasts belongs to --pairs",
            remedy="Leave it out: the names of --real and --synthetic say what is compared.",
        )
    more = options.model_dump(include={"mask", "lesions", "force"})
    more |= {"settings": settings, "workers": options.crew}
    with quick_imports():
        from mrbridge.bundle import load_bundle
        from mrbridge.evaluation.evaluate import Evaluation, evaluate as run, score

    def work() -> Evaluation:
        if pairs is not None:
            named = unnamed() if model is None else model
            bundle = load_bundle(named, allow_code=options.allow_code)
            return run(bundle, pairs, out, device=options.device, **more)
        more.update(source=options.source, uncertainty=options.uncertainty)
        return score(files[0], files[1], out=out, **more)

    result, failure = as_far_as_done(work)
    answer(
        {
            "report": str(out / "report.html"),
            "model": result.model_sha256,
            "summary": result.summary,
            "measures": result.measures,
            "lesions": result.lesions,
            "uses": [vars(use) for use in result.uses],
            "failed": dict(result.failures),
        },
        f"{result.uses_in_words()}The report: {out / 'report.html'}",
        failure,
    )


@verb("mrbridge.verb_settings:Export", "mrbridge export -m run --to onnx -o exported")
def export(options: options_of.Export) -> None:
    """Write both generators for other runtimes, or for a model hub."""
    locate(options.model)
    with quick_imports():
        from mrbridge.bundle import load_bundle
        from mrbridge.inference.export import export as run

    bundle = load_bundle(options.model, allow_code=options.allow_code)
    outputs = [str(path) for path in run(bundle, options.out, to=options.to)]
    answer({"outputs": outputs}, f"written: {' and '.join(outputs)}")


@verb("mrbridge.verb_settings:Info", "mrbridge info unet --json")
def info(options: options_of.Info) -> None:
    """Show the card of a model, or a preset."""
    from mrbridge.training.settings import PRESETS, preset

    model = options.model
    if options.schema_of is not None:
        from mrbridge.verb_settings import schema

        result = schema(options.schema_of)
        answer(result, json.dumps(result, indent=2))
        return
    must_be_here(model, "Copy the model to this machine first.")
    if model in PRESETS or not (model == SHIPPED or Path(model).exists()):
        settings = preset(model)
        import yaml

        with quick_imports():
            fields = {"preset": model} | settings.networks.describe()
        counts = [f"{name} {fields[name]:,}" for name in ("generator", "critic", "total")]
        numbers = f"parameters: {', '.join(counts)} (two of each)"
        text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
        answer(fields | {"settings": settings.model_dump(mode="json")}, f"{text}# {numbers}")
        return
    with quick_imports():
        from mrbridge.bundle import read_manifest
        from mrbridge.extensions import code_in
        from mrbridge.manifest import card

    manifest, allowed = read_manifest(model), options.allow_code
    facts = manifest.model_dump(mode="json") | {"code": list(manifest.code)}
    if allowed or not code_in(manifest.networks):
        facts |= manifest.networks.describe()
    answer(facts, card(manifest, allow_code=allowed))


@verb("mrbridge.verb_settings:Doctor", "mrbridge doctor > report.txt")
def doctor(options: options_of.Doctor) -> None:
    """Describe this installation for a bug report, without personal data.

    Versions, processor, kernels, threads, memory, disk, optional parts, and what could be better.
    """
    with quick_imports():
        from mrbridge.doctor import examine, in_words

    facts = examine()
    answer(facts, in_words(facts))


@verb("mrbridge.verb_settings:Serve", "mrbridge serve")
def serve(options: options_of.Serve, settings: ServeSettings) -> None:
    """Serve a page to translate scans and to look at them, on this machine only.

    It prints the URL to open. Ctrl-C ends it, and removes all uploads and results.
    """
    models: list[str | Path] = [locate(model) for model in options.model] or [SHIPPED]
    for folder in options.run:
        must_exist(folder / "settings.yaml", remedy="Name the folder of a training.")
    must_have_web()
    if not options.model:
        log.info(UNNAMED)
    with quick_imports():
        from mrbridge.viewer import BUILD_IT, NOT_BUILT, is_built
        from mrbridge.web.server import run

    if not is_built():
        log.warning("%s; only the HTTP interface works. %s", NOT_BUILT, BUILD_IT)

    more: dict[str, Any] = {"runs": options.run, "allow_code": options.allow_code}
    run(models, settings, answer_url, device=options.device, **more)


def must_have_web() -> None:
    """Refuse an installation without the packages that `serve` needs: SettingsError."""
    missing = [name for name in ("fastapi", "uvicorn", "multipart") if find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"serve needs packages that are not installed ({', '.join(missing)})",
            remedy="Run: pip install 'mrbridge[web]'",
        )


@verb("mrbridge.verb_settings:View", "mrbridge view T1w.nii.gz T2w.nii.gz -o page.html")
def view(options: options_of.View) -> None:
    """Write one page to look at a scan and its synthetic image, without a network."""
    for path in (options.scan, options.synthetic, options.truth, options.uncertainty):
        must_exist(path)
    with quick_imports():
        from mrbridge.web.page import view as run

    result = run(**options.model_dump(exclude={"overwrite"}))
    size = len(result.html) / 2**20
    answer({"path": str(result.path)}, f"{result.path}: {size:.1f} MiB")


@verb(
    "mrbridge.verb_settings:Setup",
    "mrbridge study setup --real bids --synthetic translated -o study",
)
def setup(options: options_of.Setup, settings: StudySettings) -> None:
    """Set up a blinded reader study of real and synthetic scans.

    The scans get random names, one grid, one field of view, 256 grey levels, and no metadata; the
    mark SYNTHETIC is left out. STUDY/key.json says which is which: keep it from the raters.
    """
    for path in (options.real, options.synthetic, options.lesions):
        must_exist(path)
    with quick_imports():
        from mrbridge.study.design import setup as run

    study, failure = as_far_as_done(lambda: run(**dict(options), settings=settings))
    scans = counted(len(study.items), "scan")
    spots = sum(map(len, study.items.values()))
    answer(
        {"path": str(study.path), "scans": len(study.items), "spots": spots},
        f"{study.path}: {scans}, {counted(spots, 'position')} to ask about",
        failure,
    )


@verb("mrbridge.verb_settings:Rate", "mrbridge study rate study --rater anna")
def rate(options: options_of.Rate, settings: Address) -> None:
    """Serve the blinded page of a study to one rater.

    It prints the URL to open. Answers are in STUDY/answers/RATER.csv at once; Ctrl-C ends it, and
    the same command continues.
    """
    must_exist(options.study)
    must_have_web()
    with quick_imports():
        from mrbridge.study.server import rate as run
        from mrbridge.viewer import must_be_built

    must_be_built()
    run(options.study, options.rater, settings, answer_url)


@verb("mrbridge.verb_settings:Analyse", "mrbridge study analyse study")
def analyse(options: options_of.Analyse) -> None:
    """Analyse the answers of all raters so far.

    It writes STUDY/report.html and STUDY/analysis.json: accuracy with 95 % confidence intervals
    (Wilson's for a rater, a bootstrap over people for all), agreement (Krippendorff's alpha),
    quality, and which lesions were seen.
    """
    must_exist(options.study)
    with quick_imports():
        from mrbridge.study.analysis import analyse as run

    result = run(options.study)
    answer(result.as_json() | {"report": str(result.out)}, f"{result}\nThe report: {result.out}")
