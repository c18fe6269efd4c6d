"""What the worker does with a scan: look at it, or translate it as the command line does.

A synthetic image is compared with the true scan: registered first, scored, subtracted.
"""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrbridge import __version__, metrics
from mrbridge.bundle import load_bundle
from mrbridge.errors import InputError
from mrbridge.inference.additional_scans import PlacedScan
from mrbridge.inference.input_check import check
from mrbridge.inference.output import Translation
from mrbridge.inference.settings import TranslateSettings
from mrbridge.inference.translate import translate as run
from mrbridge.inference.translator import Translator
from mrbridge.inspection.headers import Item, list_headers
from mrbridge.io import is_dicom, read
from mrbridge.io.atomic import sidecar_path, stem_of, suffix_of, write_json, write_text
from mrbridge.io.bids_name import derivative_name, parse_name
from mrbridge.networks.build import count_parameters
from mrbridge.preprocessing.foreground import Head, black_background, foreground_mask
from mrbridge.preprocessing.geometry import to_slices
from mrbridge.preprocessing.registration import register
from mrbridge.preprocessing.resample import covered, grid_difference, resample, stored_like
from mrbridge.progress import reported
from mrbridge.viewer import Layer, is_built, page, window, write_view
from mrbridge.volume import CONTRASTS, Verdict, Volume

if TYPE_CHECKING:
    from mrbridge.web.worker import Task

_IMAGES = 2  # of 256 x 256 pixels, which are timed

Facts = dict[str, Any]

_LEAST_VOXELS = 100  # of both scans, for a fit


def load(
    models: Sequence[str | Path], device: str, allow_code: bool
) -> tuple[list[Translator], list[Facts]]:
    """Load the models, and what the page says about each.

    Raises:
        BundleError: one cannot be used.
        SettingsError: there is no such device.
    """
    loaded = [Translator(load_bundle(model, allow_code=allow_code), device) for model in models]
    return loaded, [model_facts(one, model) for one, model in zip(loaded, models, strict=True)]


def model_facts(translator: Translator, model: str | Path) -> Facts:
    """What the page says about a model, with the seconds per pixel of its network."""
    manifest = translator.bundle.manifest
    noise = np.random.default_rng(0).uniform(-1, 1, (_IMAGES, 256, 256)).astype(np.float32)
    translator.translate_slices(noise[:1], manifest.target)  # allocates, and arranges the weights
    start = time.perf_counter()
    translator.translate_slices(noise, manifest.target)
    return {
        "name": Path(model).name if isinstance(model, Path) else model,
        "contrasts": list(manifest.contrasts),
        "preset": manifest.preset,
        "sha256": translator.bundle.hash,
        "uncertainty": manifest.uncertainty is not None,
        "takes_several": manifest.any_contrast is not None,
        "seconds_per_pixel": (time.perf_counter() - start) / noise.size,
        "limits": list(manifest.limits),
    }


def look(task: Task, translators: Sequence[Translator]) -> Facts:
    """What a scan is, whether it can be translated, and the volume that the page shows;
    MrbridgeError if it cannot be read."""
    items, translator = list_headers(task.scan).items, translators[task.model]
    volume = _read(replace(task, force=True, allow_gaps=True), translator)
    scan = volume if volume.contrast or volume.other else _with_contrast(volume, items)
    write_view(scan, task.views / "source.nii")
    return {
        "scan": {
            "contrast": scan.contrast,
            "shape": list(scan.voxels.shape),
            "spacing_mm": scan.spacing and [round(step, 4) for step in scan.spacing],
            "items": [_item(item, task.scan) for item in items],
        },
        "verdict": verdict(scan, translator),
        "target": translator.bundle.target_for(scan.contrast),
        "maps": [_mapped(scan, one) for one in translators],
        "work": {
            "voxels": scan.voxels.size,
            "pixels": [one.pixels(scan) for one in translators],
        },
        "views": {"source": _view("source.nii", scan)},
    }


def _mapped(scan: Volume, translator: Translator) -> list[str]:
    """The contrasts for which a model makes uncertainty maps from such a scan."""
    bundle = translator.bundle
    return [
        to
        for to in bundle.contrasts
        if translator.knows_uncertainty(bundle.direction((scan.contrast,), to))
    ]


def _with_contrast(volume: Volume, items: Sequence[Item]) -> Volume:
    return replace(volume, contrast=items[0].contrast) if len(items) == 1 else volume


def _item(item: Item, scan: Path) -> Facts:
    # Files of a folder may be named after the patient; the page shows what the user dropped.
    return asdict(item) | {"name": item.name.removeprefix(f"{scan.name}/")}


def verdict(scan: Volume, translator: Translator) -> Facts:
    """Whether the model knows such a scan: usual, unusual or refused, with the reasons.

    The same as `translate` and `inspect` find in its name, its header and its image; and what
    reading repaired or assumed.
    """
    known = translator.bundle.contrasts
    to = translator.bundle.target_for(scan.contrast)
    try:
        is_head = translator.bundle.manifest.standard.foreground == "head"
        found = check(scan, to, known, is_head=is_head, force=True)[0]
    except InputError as error:  # its size cannot be that of a head
        found = Verdict("refused", (error.what,))
    reasons = [f"It {reason}." for reason in found.reasons]
    notes = [f"{note[:1].upper()}{note[1:]}." for note in scan.notes]
    if scan.contrast is None and not scan.other:
        notes.append(f"Nothing says which contrast it is; {known[0]} is assumed.")
    state = "unusual" if notes and found.level == "usual" else found.level
    return {"state": state, "reasons": reasons + notes}


def translate(task: Task, translator: Translator, report: Callable[[float], None]) -> Facts:
    """Translate a scan, and write what the user takes home; `report` gets the share that is done.
    MrbridgeError if the scan is refused, or cannot be translated."""
    dicom = is_dicom(task.scan)
    changes: dict[str, Any] = {
        "force": task.force,
        "to": task.to,
        "uncertainty": task.uncertainty,
    }
    if dicom:
        changes |= {"series": task.series, "allow_gaps": task.allow_gaps}
    scan = _read(task, translator)
    settings = TranslateSettings().changed(changes)
    known = _with_contrast(scan, list_headers(task.scan).items).contrast
    to = task.to or translator.bundle.target_for(known)
    out = task.results / (f"synthetic_{to}_dicom" if dicom else result_name(task.scan, to))
    with reported(lambda share: report(0.95 * share)):
        (done,) = run(task.scan, out, model=translator, settings=settings, also=task.also)
    layers, compared = _layers(task, scan, done, to)
    for layer in layers[1:]:
        write_view(layer.volume, task.views / f"{layer.role}.nii")
    text = methods(translator, known, to, done.additional)
    if compared.get("scores"):
        write_json(
            task.results / "scores.json", {"created_by": f"mrbridge {__version__}"} | compared
        )
    return {
        "comparison": compared,
        "files": _files(done, task.results, layers, text),
        "views": {one.role: _view(f"{one.role}.nii", one.volume) for one in layers},
        "target": to,
    }


def _layers(
    task: Task, scan: Volume, done: Translation, to: str
) -> tuple[list[Layer], dict[str, Any]]:
    """What the page shows: source, synthetic image and what is known about it; and scores."""
    assert done.output is not None
    synthetic = replace(read(done.output, force=True), contrast=to)
    layers = [
        Layer("source", f"{scan.contrast or 'Scan'} (source)", scan),
        Layer("synthetic", f"{to} (synthetic)", synthetic),
    ]
    # In a derived DICOM series it is a parametric map, for other viewers.
    if done.uncertainty is not None and not is_dicom(done.output):
        layers.append(Layer("uncertainty", "Uncertainty", read(done.uncertainty)))
    if task.truth is None:
        return layers, {}
    try:
        truth, how = registered(read(task.truth, force=True), scan, to)
        compared = {"note": how, "scores": scores(scan, synthetic, truth)}
    except InputError as error:  # the translation stands, without a comparison
        return layers, {"refused": f"The true scan {error.what}. {error.remedy}"}
    layers.append(Layer("truth", f"{to} (true scan)", truth))
    apart = difference(synthetic, truth)
    layers.append(Layer("difference", "Difference from the true scan", apart))
    return layers, compared


def _files(
    done: Translation, results: Path, layers: Sequence[Layer], methods_text: str
) -> list[Facts]:
    """Complete what the user takes home, and list it."""
    assert done.output is not None
    images = {"scan": done.output, "uncertainty": done.uncertainty}
    kinds: dict[str, str] = {}
    if done.output.is_dir():
        kinds[_packed(done.output).name] = "scan"
    else:
        for kind, path in images.items():
            if path is not None:
                kinds[path.name] = kind
                if sidecar_path(path).is_file():
                    kinds[sidecar_path(path).name] = "sidecar"
    if (results / "scores.json").is_file():
        kinds["scores.json"] = "scores"
    write_text(results / "methods.txt", methods_text)
    kinds["methods.txt"] = "methods"
    if is_built():
        write_text(results / "report.html", page(layers))
        kinds["report.html"] = "report"
    with zipfile.ZipFile(results / "all.zip", "w", zipfile.ZIP_STORED) as archive:
        for name in kinds:
            archive.write(results / name, name)
    kinds["all.zip"] = "all"
    return [
        {"name": name, "kind": kind, "bytes": (results / name).stat().st_size}
        for name, kind in kinds.items()
    ]


def result_name(scan: Path, to: str) -> str:
    """The name of a synthetic image: of a derivative, as in BIDS, also for other names."""
    bids = parse_name(scan)
    if bids is not None:
        return derivative_name(bids, to)
    suffix, stem = suffix_of(scan), stem_of(scan)
    before, _, last = stem.rpartition("_")
    stem = before if last in CONTRASTS else stem
    return f"{stem}_desc-synth_{to}{suffix}" if stem else f"desc-synth_{to}{suffix}"


def methods(
    translator: Translator, known: str | None, to: str, additional: Sequence[PlacedScan] = ()
) -> str:
    """A paragraph for the methods section of a paper.

    Args:
        known: the contrast of the scan; None: it is unknown.
        additional: other scans of the person that it was made from, too.
    """
    manifest = translator.bundle.manifest
    source = known or translator.bundle.preferred(to)[0]
    others = [one.contrast for one in additional]
    given = (source, *others) if others else (known,)
    direction = translator.bundle.direction(given, to)
    generator = count_parameters(translator.bundle.build(direction.generator))
    planes = (
        "The generator was applied to axial, coronal and sagittal slices, and the three results "
        "were averaged."
        if translator.planes == "all"
        else "The generator was applied to axial slices."
    )
    unknown = ""
    if known is None:
        source = direction.given[0] or "input"
        unknown = f" The contrast of the input was assumed to be {source}."
        if direction.given[0] is None:
            unknown = " The contrast of the input was unknown."
    images = f"{source} image"
    if others:
        images = f"{', '.join([source, *others[:-1]])} and {others[-1]} images"
    grid = f"{source} image" if others else "input"
    moved = [one.contrast for one in additional if one.registration is not None]
    registered = "".join(f" The {one} image was registered to it (rigid)." for one in moved)
    return (
        f"The {to} image was synthesised from the {images} with mrbridge {__version__} "
        f"(preset {manifest.preset}, {manifest.networks.generator.kind} generator with "
        f"{generator:,} parameters, weights SHA-256 {translator.bundle.hash[:16]}). {planes} The "
        f"result is on the voxel grid of the {grid}.{registered}{unknown} Synthetic images were "
        "used for research only; they may lack lesions that are visible in the source, and may "
        "show structures that do not exist.\n"
    )


def _read(task: Task, translator: Translator) -> Volume:
    """Read a scan, of several DICOM series the one that is translated; MrbridgeError if it cannot
    be read."""
    if not is_dicom(task.scan):
        return read(task.scan)
    from mrbridge.io.dicom import choose_series, find_series, nameless, read_series

    bundle = translator.bundle
    wanted = [one for one in bundle.contrasts if one != task.to]
    with nameless(task.scan):
        series = choose_series(find_series(task.scan), wanted, task.series, force=task.force)
        return read_series(series, allow_gaps=task.allow_gaps)


def _view(name: str, volume: Volume) -> Facts:
    return {
        "name": name,
        "contrast": volume.contrast,
        "synthetic": volume.synthetic,
        **window(volume),
    }


def _packed(series: Path) -> Path:
    """A derived series as a zip next to its folder; equal series give equal files."""
    path = series.with_name(f"{series.name}.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(p for p in series.rglob("*") if p.is_file()):
            info = zipfile.ZipInfo(file.relative_to(series).as_posix())
            archive.writestr(info, file.read_bytes())
    return path


def registered(truth: Volume, scan: Volume, to: str) -> tuple[Volume, str]:
    """The true scan on the grid of another scan of the same head, and how it came there, in words.

    As in `evaluate`: scans on one grid are compared as they are, others are registered first.

    Raises:
        InputError: it is synthetic, something else or another contrast, a 2D image of another size,
            or the registration did not converge.
    """
    other = "Choose the scan that was acquired."
    if truth.synthetic:
        raise InputError("is synthetic itself", remedy=other)
    if truth.other or truth.contrast not in (None, to):
        raise InputError(truth.other or f"is {truth.contrast}, not {to}", remedy=other)
    truth = stored_like(truth, scan)
    difference = grid_difference(truth, scan)
    if difference is None:
        return truth, "It has the grid of the source and was compared as it is."
    if truth.affine is None or scan.affine is None:
        raise InputError(
            f"has another size ({difference})", remedy="Choose the true scan of the same slice."
        )
    found = register(truth, scan, "rigid")
    moved = resample(truth, scan, found.transform)
    inside = covered(truth, scan, found.transform)
    return (
        replace(moved, voxels=np.where(inside, moved.voxels, 0)),
        f"It was registered to the source (rigid, moved by {found.displacement_mm:.1f} mm).",
    )


def scores(source: Volume, synthetic: Volume, truth: Volume) -> dict[str, Any]:
    """The scores of `evaluate` inside the foreground of the true scan, and the baselines.

    Args:
        source, synthetic, truth: three scans on one grid.

    Returns:
        By method (`model`; `floor`: the monotone baseline, fitted to this very pair; `copy`: the
        source), then `fit` and `plain`, then `psnr` (dB), `ssim` and `mae`.

    Raises:
        InputError: the true scan shows nothing.
    """
    scans = [black_background(one) for one in (synthetic, truth, source)]
    made, real, seen = (
        to_slices(replace(one, voxels=np.asarray(one.voxels, np.float32)), None)[0] for one in scans
    )
    inside = Head(scans[1]).foreground
    if not inside.any():
        raise InputError("shows nothing", remedy="Choose another scan.")
    values = metrics.scaled(seen, inside)
    curve = metrics.fit_monotone(values[inside], metrics.scaled(real, inside)[inside])
    # A falling curve would make the background bright.
    floor = np.where(inside | foreground_mask(seen), curve.apply(values), np.float32(0))
    images = {"model": made, "floor": floor, "copy": seen}
    return {name: metrics.scores(real, image, inside) for name, image in images.items()}


def difference(synthetic: Volume, truth: Volume) -> Volume:
    """The synthetic minus the true scan, after a least-squares fit of scale and offset.

    The fit takes the voxels where neither is zero. Outside them the difference is zero.
    """
    made, real = (np.asarray(one.voxels, np.float32) for one in (synthetic, truth))
    inside = (made != 0) & (real != 0)
    apart = np.zeros(made.shape, np.float32)
    if inside.sum() >= _LEAST_VOXELS:
        apart[inside] = (metrics.fitted(real, made, inside) - real)[inside]
    return replace(synthetic, voxels=apart, synthetic=True, header=None)
