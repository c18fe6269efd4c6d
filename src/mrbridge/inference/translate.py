"""The verb `translate`: a picture, a volume, a folder of them, BIDS data sets and DICOM series."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mrbridge.bundle import Bundle
from mrbridge.errors import (
    InputError,
    Interrupted,
    OutputError,
    SettingsError,
    SomeScansFailed,
)
from mrbridge.inference.data_set import Outcome, Plan, translate_data_set
from mrbridge.inference.derivatives import REPORT
from mrbridge.inference.engine import Translator
from mrbridge.inference.folder import output_file, translate_folder
from mrbridge.inference.integers import check_number_type
from mrbridge.inference.job import (
    Job,
    Translation,
    reference_of,
    synthesise,
    translate_file,
)
from mrbridge.inference.objects import as_volume, in_kind_of
from mrbridge.inference.synthesis import Synthesis, note
from mrbridge.io import is_dicom, read
from mrbridge.io.bids import is_bids
from mrbridge.io.bids_selection import Selection, select
from mrbridge.io.formats import is_picture
from mrbridge.io.places import here
from mrbridge.models import unnamed
from mrbridge.scale import Workers, reachable
from mrbridge.unexpected import at_work_on

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
    planes: str | None = None,
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
        planes: in which volumes are cut: `axial`, or `all` three, which is better and takes
            three times as long (`inference.planes`); None takes the model's.
        force: also translate what is synthetic or of the wanted contrast already, and what is known
            to be something else, such as a mask or a scan after a contrast agent.
        volume: which volume of a 4D scan.
        assume: orientation, such as "RAS", of a file that states none.
        dtype: the number type of volumes that are made, one of `integers.NUMBER_TYPES`.
        participants, sessions, bids_filter: of a BIDS data set, which scans: labels, and a JSON
            file of queries (see `mrbridge.io.bids_selection`).
        overwrite: replace what mrbridge made there. Without it, that of a file, a folder or a
            DICOM series is replaced as well; of a BIDS data set, what was made of the same scan by
            the same model is left as it is, and what was made otherwise is refused. What mrbridge
            did not make is never replaced.
        series: of DICOM, which series, by number or UID; None chooses by contrast.
        allow_gaps: of DICOM, fill missing slices by interpolation.
        form: of DICOM, what it becomes, one of `FORMS`; None keeps DICOM, unless `out` is the name
            of a NIfTI file.
        workers: for the scans of a folder or a data set: processes, or the address of a Dask
            scheduler, whose workers see the same files at the same absolute paths. Each loads the
            model from its path; one that has none is used only in this process.

    Returns:
        For paths, one `Translation` a scan; otherwise an object of the given kind (a `Volume` for
        an array).

    Raises:
        InputError: the input cannot be used, or there is nothing to translate in a folder.
        OutputError: the output cannot be written.
        SettingsError: an option has an impossible value, such as a contrast that the model does
            not make.
        SomeScansFailed: of a folder some failed; the others are written and `report.json` tells.
            Its `result` is what is returned otherwise.
        Interrupted: of a folder some were translated when a signal came; likewise.
        BundleError: the model cannot be used.
    """
    if image is None:
        raise InputError("no scan is named", remedy="Without a model, say image=….")
    check_number_type(dtype)
    if form not in (None, *FORMS):
        raise SettingsError(f"there is no form '{form}'", remedy=f"Say {' or '.join(FORMS)}.")
    translator = Translator(unnamed() if model is None else model, device, engine, planes)
    if to is not None:
        translator.bundle.must_make(to)
    reference = None
    if match is not None:
        reference = reference_of(translator, match)
    job = Job(translator, to, reference, force, volume, assume, dtype)
    selection = select(participants, sessions, bids_filter)
    if isinstance(image, str | Path):
        if out is None:
            raise OutputError("no output is named", path=image, remedy="Give `out`.")
        path, out = (Path(reachable(here(place), workers)) for place in (image, out))
        dicom = is_dicom(path)  # first: folders called sub-01 may hold what a scanner sent
        if not dicom:
            _refuse_wishes(path, series, allow_gaps, form)
        if not dicom and path.is_dir() and is_bids(path):
            return _all_of(_data_set(job, path, out, selection, overwrite, workers), out)
        if selection != Selection():
            raise SettingsError(
                "participants, sessions and filters are for BIDS data sets",
                path=path,
                remedy="Leave them out, or name the folder of a data set.",
            )
        if dicom:
            with at_work_on(path):
                return [_dicom(job, path, out, series, allow_gaps, form, overwrite)]
        if path.is_dir():
            return _all_of(translate_folder(job, path, out, workers), out)
        with at_work_on(path):
            return [translate_file(job, path, output_file(job, path, out))]
    scan = as_volume(image, volume)
    synthesis = synthesise(job, scan, None)
    return in_kind_of(image, synthesis.made, note(synthesis.contrast))


def _dicom(
    job: Job,
    path: Path,
    out: Path,
    series: str | None,
    allow_gaps: bool,
    form: str | None,
    overwrite: bool,
) -> Translation:
    """Translate one DICOM series."""
    from mrbridge.inference import dicom  # half a second, which other formats do not need

    if job.volume is not None or job.assume is not None:
        raise InputError("is DICOM", path=path, remedy="Leave --volume and --assume.")
    bundle = job.translator.bundle
    plan = dicom.Plan(path, out, bundle, job.to, series, allow_gaps, form, job.force, overwrite)
    output, contrast = dicom.translate_series(plan, lambda scan: synthesise(job, scan, path))
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
            "is not a DICOM series", path=path, remedy="Leave --series, --allow-gaps and --as."
        )


def _data_set(
    job: Job, root: Path, out: Path, selection: Selection, overwrite: bool, workers: Workers
) -> list[Translation]:
    """Translate a BIDS data set into derivatives."""
    match = None if job.match is None else hashlib.sha256(job.match.voxels.tobytes()).hexdigest()
    bundle, planes = job.translator.bundle, job.translator.planes
    asked = {
        "Planes": None if planes == bundle.manifest.planes else planes,
        "NumberType": None if job.dtype == "float32" else job.dtype,
        "Match": match,
        "Volume": job.volume,
        "Assume": job.assume,
    }
    options = {key: value for key, value in asked.items() if value is not None}
    named = replace(bundle, weights={})  # which model it is, without what would be sent around
    plan = Plan(root, out, named, job.to, selection, options, job.force)
    make, workers = partial(_make, job), job.workers(workers)

    def told(outcomes: list[Outcome]) -> list[Translation]:
        return [
            Translation(
                item.source,
                item.output,
                item.contrast,
                bundle.hash,
                error=item.error,
                skipped=item.skipped,
                rounding=item.rounding,
            )
            for item in outcomes
        ]

    try:
        return told(translate_data_set(plan, make, overwrite=overwrite, workers=workers))
    except Interrupted as error:
        error.result = told(error.result)
        raise


def _all_of(done: list[Translation], out: Path) -> list[Translation]:
    """What was done of a folder, if none of it failed."""
    failed = sum(item.error is not None for item in done)
    if failed:
        raise SomeScansFailed(
            f"{failed} of {len(done)} scans failed",
            path=out / REPORT,
            remedy="It lists them.",
            result=done,
        )
    return done


def _make(job: Job, path: Path, synthetic: bool) -> Synthesis:
    """Read and translate a scan of a data set."""
    scan = read(path, volume=job.volume, assume=job.assume)
    return synthesise(job, replace(scan, synthetic=scan.synthetic or synthetic), path)
