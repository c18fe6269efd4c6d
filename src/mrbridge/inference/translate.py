"""The verb `translate`: a picture, a volume, or a folder of them, into the other contrast."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from mrbridge import __version__
from mrbridge.bundle import Bundle
from mrbridge.errors import InputError, MrbridgeError, OutputError, SettingsError, SomeScansFailed
from mrbridge.inference.engine import Translator
from mrbridge.inference.job import Job, Translation, check, note, provenance, sidecar
from mrbridge.inference.objects import as_volume, in_kind_of
from mrbridge.io import FORMATS, is_dicom, is_readable, read, write
from mrbridge.io.bids import NOT_RAW, is_bids
from mrbridge.io.formats import is_picture
from mrbridge.io.names import derivative_name, guess_contrast, natural_key, parse_name
from mrbridge.io.safety import sha256_of, sweep, write_json
from mrbridge.models import unnamed
from mrbridge.progress import track

log = logging.getLogger(__name__)

FORMS = ("dicom", "nifti")
"""What a DICOM series can become."""


def translate(
    model: Bundle | str | Path | None = None,
    image: Any = None,
    out: str | Path | None = None,
    *,
    to: str | None = None,
    match: Any = None,
    device: str = "auto",
    engine: str = "auto",
    force: bool = False,
    volume: int | None = None,
    assume: str | None = None,
    series: str | None = None,
    allow_gaps: bool = False,
    form: str | None = None,
) -> Any:
    """Translate scans into the contrast that was not acquired.

    Args:
        model: a bundle, the path of a run or bundle, or `shipped`; None takes the shipped model
            too, and says so.
        image: a path (file or folder), a `Volume`, a nibabel image, or an array (i, j, k) with its
            affine (4, 4). Never left out, though `model` before it may be.
        out: where to write, for paths: a file for a file, otherwise a folder.
        to: the contrast to make; None makes the one that the scan is not, as far as its name or
            header tells, else the model's target.
        match: a scan of the wanted contrast, a path or an object, whose intensity range the results
            get.
        device: `auto`, `cpu` or `cuda`.
        engine: what computes: `auto`, `torch` or `onnx`.
        force: also translate what is synthetic or of the wanted contrast already.
        volume: which volume of a 4D scan.
        assume: orientation, such as "RAS", of a file that states none.
        series: which DICOM series, by number or UID; None chooses by contrast.
        allow_gaps: fill missing DICOM slices by interpolation.
        form: `nifti` writes NIfTI also of DICOM; `dicom` is what DICOM becomes.

    Returns:
        For paths, one `Translation` a scan; otherwise an object of the given kind (a `Volume` for
        an array).

    Raises:
        InputError: the input cannot be used, or there is nothing to translate in a folder.
        OutputError: the output cannot be written.
        SomeScansFailed: of a folder some failed; the others are written and `report.json` tells.
        BundleError: the model cannot be used.
        SettingsError: the model does not make this contrast, or there is no such form or engine.
    """
    if image is None:
        raise InputError("no scan is named", remedy="Without a model, say image=….")
    if form not in (None, *FORMS):
        raise SettingsError(f"there is no form '{form}'", remedy=f"Say {' or '.join(FORMS)}.")
    translator = Translator(unnamed() if model is None else model, device, engine)
    reference = None
    if match is not None:
        reference = read(match) if isinstance(match, str | Path) else as_volume(match)
    job = Job(translator, to, reference, force, volume, assume)
    if isinstance(image, str | Path):
        if out is None:
            raise OutputError("no output is named", path=Path(image), remedy="Give `out`.")
        path, out = Path(image), Path(out)
        if is_dicom(path):
            from mrbridge.inference.dicom import translate_dicom

            return [
                translate_dicom(job, path, out, series=series, allow_gaps=allow_gaps, form=form)
            ]
        _refuse_wishes(path, series, allow_gaps, form)
        if path.is_dir():
            return _folder(job, path, out)
        return [_file(job, path, _output_file(job, path, out))]
    scan = as_volume(image, volume)
    wanted = check(job, scan, None)
    return in_kind_of(image, translator.translate(scan, wanted, match=reference), note(wanted))


def _refuse_wishes(path: Path, series: str | None, allow_gaps: bool, form: str | None) -> None:
    """What can only be wished for a DICOM series."""
    if form == "dicom":
        raise OutputError(
            "cannot become DICOM: it has no patient, no study and no frame of reference, and "
            "invented ones would be worse than none",
            path=path,
            remedy="Translate the DICOM series that it was made of.",
        )
    if series is not None or allow_gaps or (form is not None and is_picture(path)):
        raise InputError(
            "is no DICOM series", path=path, remedy="Leave --series, --allow-gaps and --as."
        )


def _file(job: Job, path: Path, output: Path, contrast: str | None = None) -> Translation:
    """Translate one file, whose contrast its folders may have told."""
    if output.resolve() == path.resolve():
        raise OutputError("the output would replace its source", path=path, remedy="Name another.")
    scan = read(path, volume=job.volume, assume=job.assume)
    scan = replace(scan, contrast=scan.contrast or contrast)
    to = check(job, scan, path)
    made = job.translator.translate(scan, to, match=job.match)
    output.parent.mkdir(parents=True, exist_ok=True)
    write(made, output, synthetic_note=note(to))
    if not made.is_picture:
        write_json(sidecar(output), provenance(job, path.name, to))
    return Translation(path, output, to, job.translator.bundle.hash)


def _folder(job: Job, folder: Path, out: Path) -> list[Translation]:
    """Translate a folder file by file; what fails does not stop the others."""
    if out.resolve() == folder.resolve():
        raise OutputError("is the input itself", path=out, remedy="Name another output folder.")
    if out.suffix and is_readable(out):
        raise OutputError(
            "is the name of a file, but the input is a folder", path=out, remedy="Name a folder."
        )
    chosen, ignored = _choose(job, folder, out)
    out.mkdir(parents=True, exist_ok=True)
    done: list[Translation] = []
    taken: set[Path] = set()
    for path in track(chosen, "translate", len(chosen)):
        known = _contrast_below(folder, path)
        to = job.contrast_of(known)
        output = out / path.relative_to(folder).parent / _name(path, to)
        sweep(output.parent)
        try:
            if output in taken:
                raise OutputError(f"{output.name} is made of another scan already", path=path)
            taken.add(output)
            done.append(_file(job, path, output, known))
        except MrbridgeError as error:
            log.error("%s", error)
            done.append(Translation(path, None, to, job.translator.bundle.hash, error.what))
    failed = [item for item in done if item.error]
    write_json(out / "report.json", _report(job, folder, out, done, ignored))
    if failed:
        raise SomeScansFailed(
            f"{len(failed)} of {len(done)} scans failed",
            path=out / "report.json",
            remedy="It lists them.",
        )
    return done


def _choose(job: Job, folder: Path, out: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Which files of a folder to translate, and why not the others."""
    results = out.resolve()
    skipped = {folder / name for name in NOT_RAW} if is_bids(folder) else set()
    paths = [
        p
        for p in sorted((p for p in folder.rglob("*") if p.is_file()), key=natural_key)
        if not p.resolve().is_relative_to(results)
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
        and not skipped & set(p.parents)
    ]
    images = [p for p in paths if is_readable(p)]
    ignored = [(p, "not an image that mrbridge reads") for p in paths if not is_readable(p)]
    bundle = job.translator.bundle
    wanted = bundle.source if job.to in (None, bundle.target) else bundle.target
    known = {p: _contrast_below(folder, p) for p in images}
    named = [p for p in images if known[p] == wanted]
    chosen = named or [p for p in images if known[p] is None]
    if job.to is None and not chosen:
        chosen = [p for p in images if known[p] == bundle.target]
    if not chosen:
        raise InputError(
            f"holds no {wanted} scan among {len(images)} images",
            path=folder,
            remedy="Name a folder of scans, and the contrast to make with --to.",
        )
    ignored += [
        (p, f"is {known[p] or 'of unknown contrast'}, not {wanted}")
        for p in images
        if p not in set(chosen)
    ]
    return chosen, ignored


def _contrast_below(folder: Path, path: Path) -> str | None:
    """What a path tells of its contrast, from the folder that was named downwards."""
    return guess_contrast(Path(folder.resolve().name, path.relative_to(folder)))


def _name(path: Path, to: str) -> str:
    """BIDS names become names of derivatives; any other name is kept, so that folders pair up."""
    bids = parse_name(path)
    return path.name if bids is None else derivative_name(bids, to)


def _output_file(job: Job, path: Path, out: Path) -> Path:
    if not path.exists():
        raise InputError("does not exist", path=path, remedy="Check the name.")
    if out.is_dir() or not out.suffix:
        known = guess_contrast(Path(path.resolve().parent.name, path.name))
        return out / _name(path, job.contrast_of(known))
    if not is_readable(out):
        raise OutputError(
            "is of no known format", path=out, remedy=f"Name a folder, or {', '.join(FORMATS)}."
        )
    return out


def _report(
    job: Job,
    folder: Path,
    out: Path,
    done: list[Translation],
    ignored: list[tuple[Path, str]],
) -> dict[str, Any]:
    return {
        "synthetic": True,
        "note": "Synthetic images, for research, not for diagnosis.",
        "created_by": f"mrbridge {__version__}",
        "model": job.translator.bundle.hash,
        "done": [
            {
                "source": str(item.source.relative_to(folder)),
                "source_sha256": sha256_of(item.source),
                "output": str(item.output.relative_to(out)),
                "contrast": item.contrast,
            }
            for item in done
            if item.output is not None
        ],
        "failed": [
            {"source": str(item.source.relative_to(folder)), "error": item.error}
            for item in done
            if item.error
        ],
        "ignored": [
            {"source": str(path.relative_to(folder)), "reason": reason} for path, reason in ignored
        ],
    }
