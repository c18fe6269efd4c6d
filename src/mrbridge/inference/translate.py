"""The verb `translate`: a picture, a volume, a folder of them, BIDS data sets and DICOM series."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mrbridge import __version__
from mrbridge.bundle import Bundle
from mrbridge.errors import (
    InputError,
    MrbridgeError,
    OutputError,
    SettingsError,
    SomeScansFailed,
)
from mrbridge.inference.data_set import SLOW_IMPORTS, Plan, translate_data_set
from mrbridge.inference.engine import Elsewhere, Translator
from mrbridge.inference.integers import Rounding, check_number_type, rounded
from mrbridge.inference.objects import as_volume, in_kind_of
from mrbridge.inference.synthesis import Synthesis, note, provenance, sidecar_path
from mrbridge.io import FORMATS, is_dicom, is_readable, read, write
from mrbridge.io.bids import is_bids
from mrbridge.io.bids_selection import Selection, select
from mrbridge.io.formats import is_picture
from mrbridge.io.names import derivative_name, guess_contrast, natural_key, parse_name
from mrbridge.io.places import here
from mrbridge.io.safety import sha256_of, sweep, write_json
from mrbridge.models import unnamed
from mrbridge.preparation.brain import find_brain, mask_path
from mrbridge.scale import Workers, map_scans, reachable, stays_here
from mrbridge.volume import Volume

log = logging.getLogger(__name__)

FORMS = ("dicom", "nifti")
"""What a DICOM series can become."""


@dataclass(frozen=True)
class Translation:
    """One scan of a batch.

    Attributes:
        source: the file that was read.
        output: the file that was written, None if it failed.
        contrast: what was to be made.
        model: SHA-256 of the weights that made it, or were to.
        error: why it failed, None if it did not.
        skipped: whether the output was there already, made of the same.
        rounding: what became of its intensities, where it was made now and of integers.
    """

    source: Path
    output: Path | None
    contrast: str | None
    model: str
    error: str | None = None
    skipped: bool = False
    rounding: Rounding | None = None


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
    dtype: str = "float32",
    participants: Sequence[str] = (),
    sessions: Sequence[str] = (),
    bids_filter: str | Path | None = None,
    overwrite: bool = False,
    series: str | None = None,
    allow_gaps: bool = False,
    form: str | None = None,
    workers: Workers = 1,
) -> Any:
    """Translate scans into the contrast that was not acquired.

    Args:
        model: a bundle, the path of a run or bundle, or `shipped`; None takes the shipped model
            too, and says so.
        image: a path or URL (file or folder), a `Volume`, a nibabel image, or an array (i, j, k)
            with its affine (4, 4). Never left out, though `model` before it may be.
        out: where to write, for paths and URLs: a file for a file, otherwise a folder.
        to: the contrast to make; None makes the one that the scan is not, as far as its name or
            header tells, else the model's target. Of a BIDS data set: None makes the model's
            target.
        match: a scan of the wanted contrast, a path or an object, whose intensity range the results
            get.
        device: `auto`, `cpu` or `cuda`.
        engine: what computes: `auto`, `torch` or `onnx`.
        force: also translate what is synthetic or of the wanted contrast already.
        volume: which volume of a 4D scan.
        assume: orientation, such as "RAS", of a file that states none.
        dtype: the number type of volumes that are made, one of `integers.NUMBER_TYPES`.
        participants, sessions, bids_filter: of a BIDS data set, which scans: labels, and a JSON
            file of queries (see `mrbridge.io.bids_selection`).
        overwrite: of a BIDS data set, make again what is there already. Otherwise what is there
            and was made of the same scan by the same model is left alone.
        series: of DICOM, which series, by number or UID; None chooses by contrast.
        allow_gaps: of DICOM, fill missing slices by interpolation.
        form: of DICOM, what it becomes, one of `FORMS`; None keeps DICOM, unless `out` is the name
            of a NIfTI file.
        workers: for the scans of a folder or a data set: processes, or the address of a Dask
            scheduler, whose workers see the same files at the same absolute paths. Each loads the
            model from its path; one that has none is used in this process alone.

    Returns:
        For paths, one `Translation` a scan; otherwise an object of the given kind (a `Volume` for
        an array).

    Raises:
        InputError: the input cannot be used, or there is nothing to translate in a folder.
        OutputError: the output cannot be written.
        SettingsError: an option has an impossible value, such as a contrast that the model does
            not make.
        SomeScansFailed: of a folder some failed; the others are written and `report.json` tells.
        BundleError: the model cannot be used.
    """
    if image is None:
        raise InputError("no scan is named", remedy="Without a model, say image=….")
    check_number_type(dtype)
    if form not in (None, *FORMS):
        raise SettingsError(f"there is no form '{form}'", remedy=f"Say {' or '.join(FORMS)}.")
    translator = Translator(unnamed() if model is None else model, device, engine)
    if to is not None:
        translator.bundle.must_make(to)
    reference = None
    if match is not None:
        reference = _reference(translator, match)
    job = _Job(translator, to, reference, force, volume, assume, dtype)
    selection = select(participants, sessions, bids_filter)
    if isinstance(image, str | Path):
        if out is None:
            raise OutputError("no output is named", path=image, remedy="Give `out`.")
        path, out = (Path(reachable(here(place), workers)) for place in (image, out))
        dicom = is_dicom(path)  # first: folders called sub-01 may hold what a scanner sent
        if not dicom:
            _refuse_wishes(path, series, allow_gaps, form)
        if not dicom and path.is_dir() and is_bids(path):
            return _data_set(job, path, out, selection, overwrite, workers)
        if selection != Selection() or overwrite:
            raise SettingsError(
                "participants, sessions, filters and overwriting are for BIDS data sets",
                path=path,
                remedy="Leave them out, or name the folder of a data set.",
            )
        if dicom:
            return [_dicom(job, path, out, series, allow_gaps, form)]
        if path.is_dir():
            return _folder(job, path, out, workers)
        return [_file(job, path, _output_file(job, path, out))]
    scan = as_volume(image, volume)
    synthesis = _synthesise(job, scan, None)
    return in_kind_of(image, synthesis.made, note(synthesis.contrast))


@dataclass(frozen=True)
class _Job:
    translator: Translator
    to: str | None
    match: Volume | None
    force: bool
    volume: int | None
    assume: str | None
    dtype: str

    def contrast_of(self, known: str | None) -> str:
        """The contrast to make of a scan of a known or unknown contrast."""
        bundle = self.translator.bundle
        return self.to or (bundle.source if known == bundle.target else bundle.target)


@dataclass(frozen=True)
class _Sent:
    """A job on its way to other processes, without the translator, which each opens for itself."""

    elsewhere: Elsewhere
    rest: tuple[Any, ...]

    def opened(self) -> _Job:
        return _Job(self.elsewhere.open(), *self.rest)


def _send(job: _Job, workers: Workers) -> tuple[_Job | _Sent, Workers]:
    """A job as those who work on it get it, and who they are."""
    told = None if stays_here(workers) else job.translator.elsewhere()
    if told is None:
        return job, 1
    rest = (job.to, job.match, job.force, job.volume, job.assume, job.dtype)
    return _Sent(told, rest), workers


def _arrived(job: _Job | _Sent) -> _Job:
    return job.opened() if isinstance(job, _Sent) else job


def _check(job: _Job, scan: Volume, path: Path | None) -> str:
    """The contrast to make of a scan, if it is fit for that."""
    bundle = job.translator.bundle
    to = job.translator.choose_contrast(scan, job.to)
    if job.force:
        return to
    if scan.synthetic:
        raise InputError("is synthetic already", path=path, remedy="Use --force to go on.")
    if scan.contrast == to:
        raise InputError(f"is {to} already", path=path, remedy="Choose --to, or use --force.")
    if scan.contrast not in (None, bundle.source, bundle.target):
        raise InputError(
            f"is {scan.contrast}; this model takes {bundle.source} and {bundle.target}",
            path=path,
            remedy="Name another scan, or use --force.",
        )
    return to


def _file(job: _Job, path: Path, output: Path, contrast: str | None = None) -> Translation:
    """Translate one file, whose contrast its folders may have told."""
    if output.resolve() == path.resolve():
        raise OutputError("the output would replace its source", path=path, remedy="Name another.")
    scan = read(path, volume=job.volume, assume=job.assume)
    scan = replace(scan, contrast=scan.contrast or contrast)
    synthesis = _synthesise(job, scan, path)
    write(synthesis.made, output, synthetic_note=note(synthesis.contrast))
    bundle = job.translator.bundle
    if not scan.is_picture:
        write_json(sidecar_path(output), provenance(bundle, synthesis, path.name))
    rounding = synthesis.rounding
    return Translation(path, output, synthesis.contrast, bundle.hash, rounding=rounding)


def _synthesise(job: _Job, scan: Volume, path: Path | None) -> Synthesis:
    """Translate one scan that was read, if it is fit for that."""
    to = _check(job, scan, path)
    if job.dtype != "float32" and scan.is_picture:
        raise SettingsError(
            "a picture keeps its depth", path=path, remedy="Leave the number type to volumes."
        )
    mask = _mask(job.translator, path)
    try:
        made = job.translator.translate(scan, to, match=job.match, mask=mask)
    except InputError as error:  # of the voxels alone, which know no file
        raise InputError(error.what, path=error.path or path, remedy=error.remedy) from error
    rounding: Rounding | None = None
    if job.dtype != "float32":
        made, rounding = rounded(made, job.dtype, job.translator.range_of(to, job.match))
        log.info(
            "%s: rounded to %s after multiplication with %g, %d voxels clipped",
            "the scan" if path is None else path.name,
            *(rounding.dtype, rounding.factor, rounding.clipped),
        )
    return Synthesis(scan, made, to, rounding)


def _reference(translator: Translator, match: Any) -> Volume:
    """What is to be matched, its brain alone where a mask beside it and the model say so."""
    if not isinstance(match, str | Path):
        return as_volume(match)
    match = Path(here(match))
    scan, mask = read(match), _mask(translator, match)
    if mask is None:
        return scan
    inside = find_brain(scan, "mask", mask)
    return replace(scan, voxels=np.where(inside, scan.voxels, 0).astype(scan.voxels.dtype))


def _mask(translator: Translator, path: Path | None) -> Volume | None:
    """The brain mask that lies beside a scan, where the model was trained on brains so masked."""
    standard = translator.bundle.manifest.standard
    if standard.brain != "mask" or path is None or not path.is_file():
        return None
    found = mask_path(path, standard.brain_mask)
    return None if found is None else read(found)


def _dicom(
    job: _Job, path: Path, out: Path, series: str | None, allow_gaps: bool, form: str | None
) -> Translation:
    """Translate one DICOM series."""
    from mrbridge.inference import dicom  # half a second, which other formats do not need

    if job.volume is not None or job.assume is not None:
        raise InputError("is DICOM", path=path, remedy="Leave --volume and --assume.")
    bundle = job.translator.bundle
    plan = dicom.Plan(path, out, bundle, job.to, series, allow_gaps, form)
    output, contrast = dicom.translate_series(plan, lambda scan: _synthesise(job, scan, path))
    return Translation(path, output, contrast, bundle.hash)


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


def _data_set(
    job: _Job, root: Path, out: Path, selection: Selection, overwrite: bool, workers: Workers
) -> list[Translation]:
    """Translate a BIDS data set into derivatives."""
    match = None if job.match is None else hashlib.sha256(job.match.voxels.tobytes()).hexdigest()
    asked = {
        "NumberType": None if job.dtype == "float32" else job.dtype,
        "Match": match,
        "Volume": job.volume,
        "Assume": job.assume,
    }
    options = {key: value for key, value in asked.items() if value is not None}
    bundle = job.translator.bundle
    named = replace(bundle, weights={})  # which model it is, without what would be sent around
    plan = Plan(root, out, named, job.to, selection, options)
    sent, workers = _send(job, workers)
    make = partial(_make, sent)
    return [
        Translation(
            item.source,
            item.output,
            item.contrast,
            bundle.hash,
            skipped=item.skipped,
            rounding=item.rounding,
        )
        for item in translate_data_set(plan, make, overwrite=overwrite, workers=workers)
    ]


def _make(job: _Job | _Sent, path: Path, synthetic: bool) -> Synthesis:
    """Read and translate a scan of a data set."""
    job = _arrived(job)
    scan = read(path, volume=job.volume, assume=job.assume)
    return _synthesise(job, replace(scan, synthetic=scan.synthetic or synthetic), path)


def _folder(job: _Job, folder: Path, out: Path, workers: Workers) -> list[Translation]:
    """Translate a folder file by file; what fails does not stop the others."""
    if out.resolve() == folder.resolve():
        raise OutputError("is the input itself", path=out, remedy="Name another output folder.")
    if out.suffix and is_readable(out):
        raise OutputError(
            "is the name of a file, but the input is a folder", path=out, remedy="Name a folder."
        )
    chosen, ignored = _choose(job, folder, out)
    items: list[_Item] = []
    taken: set[Path] = set()
    for path in chosen:
        known = _contrast_below(folder, path)
        to = job.contrast_of(known)
        output = out / path.relative_to(folder).parent / _name(path, to)
        items.append(_Item(path, output, known, to, output in taken))
        taken.add(output)
    done: list[Translation] = []
    sent, workers = _send(job, workers)
    function = partial(_file_of_folder, sent)
    for item, result in map_scans(
        function, items, workers=workers, label="translate", imports=SLOW_IMPORTS
    ):
        if isinstance(result, MrbridgeError):
            log.error("%s", result)
            model = job.translator.bundle.hash
            result = Translation(item.path, None, item.to, model, result.what)
        done.append(result)
    failed = [item for item in done if item.error]
    write_json(out / "report.json", _report(job, folder, out, done, ignored))
    if failed:
        raise SomeScansFailed(
            f"{len(failed)} of {len(done)} scans failed",
            path=out / "report.json",
            remedy="It lists them.",
        )
    return done


@dataclass(frozen=True)
class _Item:
    """A file of a folder: the contrast that it is known to have, the one to make, and where to,
    unless that place is taken."""

    path: Path
    output: Path
    known: str | None
    to: str
    is_taken: bool


def _file_of_folder(job: _Job | _Sent, item: _Item) -> Translation:
    sweep(item.output.parent)
    if item.is_taken:
        raise OutputError(f"{item.output.name} is made of another scan already", path=item.path)
    return _file(_arrived(job), item.path, item.output, item.known)


def _choose(job: _Job, folder: Path, out: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Which files of a folder to translate, and why not the others."""
    results = out.resolve()
    paths = [
        p
        for p in sorted((p for p in folder.rglob("*") if p.is_file()), key=natural_key)
        if not p.resolve().is_relative_to(results)
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
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


def _output_file(job: _Job, path: Path, out: Path) -> Path:
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
    job: _Job,
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
                **({} if item.rounding is None else {"rounding": item.rounding.told()}),
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
