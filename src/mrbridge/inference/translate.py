"""The verb `translate`: 2D images, volumes, folders, BIDS datasets, DICOM series and objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, overload

import numpy as np

from mrbridge.bundle import Bundle
from mrbridge.errors import InputError, OutputError, SettingsError, at_work_on
from mrbridge.inference.additional_scans import parse
from mrbridge.inference.in_memory import ArrayAndAffine, Scan, as_volume, in_kind_of
from mrbridge.inference.output import Translations, mark, translate_file
from mrbridge.inference.output_grid import OutputGrid
from mrbridge.inference.settings import TranslateSettings
from mrbridge.inference.synthesis import Request, brain_mask, report_verdict, synthesise
from mrbridge.inference.translator import Translator
from mrbridge.io import is_dicom, read
from mrbridge.io.contrast import recognised
from mrbridge.io.formats import is_2d
from mrbridge.io.remote import localise
from mrbridge.models import SHIPPED
from mrbridge.parallel import Workers, reachable
from mrbridge.preprocessing.foreground import Head
from mrbridge.preprocessing.skull_strip import find_brain
from mrbridge.settings import checked
from mrbridge.volume import Volume

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage  # nibabel, which 2D images do not need

Image = TypeVar("Image", bound="SpatialImage")
Also: TypeAlias = "Mapping[str, Scan] | Sequence[Scan]"

Model = Bundle | Translator | str | Path


@overload
def translate(
    image: str | Path,
    out: str | Path,
    *,
    model: Model = SHIPPED,
    settings: TranslateSettings | None = None,
    match: Scan | None = None,
    grid: Scan | None = None,
    also: Also = (),
    device: str = "auto",
    workers: Workers = 1,
    **changes: Any,
) -> Translations: ...
@overload
def translate(
    image: Volume | ArrayAndAffine,
    out: None = None,
    *,
    model: Model = SHIPPED,
    settings: TranslateSettings | None = None,
    match: Scan | None = None,
    grid: Scan | None = None,
    also: Also = (),
    device: str = "auto",
    **changes: Any,
) -> Volume: ...
@overload
def translate(
    image: Image,
    out: None = None,
    *,
    model: Model = SHIPPED,
    settings: TranslateSettings | None = None,
    match: Scan | None = None,
    grid: Scan | None = None,
    also: Also = (),
    device: str = "auto",
    **changes: Any,
) -> Image: ...
@checked
def translate(
    image: Scan,
    out: str | Path | None = None,
    *,
    model: Model = SHIPPED,
    settings: TranslateSettings | None = None,
    match: Scan | None = None,
    grid: Scan | None = None,
    also: Also = (),
    device: str = "auto",
    workers: Workers = 1,
    **changes: Any,
) -> Any:
    """Translate scans into the contrast that was not acquired.

    Args:
        image: a path or URL of a 2D image, a NIfTI file, a folder of them, a BIDS dataset or a
            DICOM series; or a scan in memory: a `Volume`, a nibabel image, or an array (i, j, k)
            with its affine (4, 4) to RAS+ mm; masked voxels count as NaN. A nibabel image of a
            file has the contrast that the name of the file says.
        out: for paths and URLs, the output: a file for a file, otherwise a folder.
        model: `shipped`, the path of a run or bundle, a `Bundle`, or a `Translator`.
        settings: what to synthesise, and from which scans.
        match: a scan of the wanted contrast, a path or an object, whose intensity range the
            results get instead of the typical one.
        grid: a scan, a path or an object, on whose grid the results are written instead of their
            sources' grids; both must be in one space. For another voxel size on the axes of the
            source there is the setting `spacing`.
        also: other scans of the same person, which the result is made from, too, if the model takes
            several: a mapping from contrast to scan, or a sequence of scans whose contrast their
            files say. One on another grid is registered. In BIDS datasets the scans of a session
            are found.
        device: `auto`, `cpu` or `cuda`; a `Translator` has its own.
        workers: for folders and datasets: number of processes, or the address of a Dask scheduler
            whose workers see the same files at the same absolute paths. Each loads the model from
            its path; a model without one is used only in this process.
        **changes: fields of `TranslateSettings`, such as `to="T2w"`, over those of `settings`.

    Returns:
        For paths and URLs, `Translations`: a list of one `Translation` for each scan. For a
        nibabel image, an image of the same class, or of NIfTI if nibabel does not write that
        class, such as MINC; for a `Volume` or an array, a `Volume`: shape
        (i, j, k), float32 unless `dtype` says otherwise, on the grid of the source unless `grid` or
        `spacing` says otherwise. With `uncertainty=True` its attribute `uncertainty` is the
        uncertainty map: an array, or for nibabel an image. The attribute `verdict`, of a
        `Translation` as well, is a `Verdict`: whether the model knows this kind of scan.

    Raises:
        ScanRefused: the model does not know this kind of scan, and `force` is not set.
        InputError: the input cannot be used, or a folder holds nothing to translate.
        OutputError: the output cannot be written there.
        SettingsError: a setting is unknown or impossible, such as a contrast that the model does
            not make.
        SomeScansFailed: some scans of a folder failed; the others are written, `report.json` lists
            all, and `result` of the error holds what would have been returned.
        Interrupted: a signal came; `report.json` and `result` hold what is done.
        BundleError: the model cannot be used.
    """
    settings = (settings or TranslateSettings()).changed(changes)
    if isinstance(model, Translator):
        translator = model
        if settings.planes not in (None, translator.planes):
            translator = Translator(model.bundle, model.device.type, settings.planes)
    else:
        translator = Translator(model, device, settings.planes)
    if settings.to is not None:
        translator.bundle.must_make(settings.to)
    reference = None if match is None else _reference(translator, match, force=settings.force)
    additional = parse(also)
    request = Request(translator, settings, reference, _output_grid(settings, grid), additional)
    if additional and translator.bundle.manifest.any_contrast is None:
        raise SettingsError(
            "this model takes one scan", path=translator.bundle.path, remedy="Leave out --also."
        )
    with recognised(translator.bundle.contrasts):
        if not isinstance(image, str | Path):
            if out is not None:
                raise OutputError(
                    "the result of a scan in memory is returned, not written",
                    path=out,
                    remedy="Leave out `out`, and save the result.",
                )
            _check_settings(settings, None, False, False)
            return _translate_object(request, image)
        if out is None:
            raise OutputError("no output is named", path=image, remedy="Name `out`.")
        path, target = (Path(reachable(localise(place), workers)) for place in (image, out))
        return _translate_path(request, path, target, workers)


def _translate_object(request: Request, image: Any) -> Any:
    """The result for a scan in memory, as the same kind of object."""
    settings = request.settings
    synthesis = synthesise(request, as_volume(image, settings.volume, settings.assume), None)
    report_verdict(synthesis, None)
    verdict, width = synthesis.verdict, synthesis.uncertainty
    made = in_kind_of(image, synthesis.volume, mark(synthesis.contrast))
    if isinstance(made, Volume):
        return replace(made, verdict=verdict, uncertainty=None if width is None else width.voxels)
    made.verdict = verdict
    if width is not None:
        made.uncertainty = in_kind_of(image, width, mark(synthesis.contrast))
    return made


def _translate_path(request: Request, path: Path, target: Path, workers: Workers) -> Translations:
    """The results for a file, a folder, a dataset or a DICOM series."""
    dicom = is_dicom(path)  # first: folders called sub-01 may hold what a scanner sent
    is_folder, is_dataset = path.is_dir() and not dicom, False
    if is_folder:
        from mrbridge.io.bids import is_bids  # which a file does not need

        is_dataset = is_bids(path)
    _check_settings(request.settings, path, dicom, is_dataset)
    if is_folder and request.additional:
        raise SettingsError(
            "additional scans belong to one scan, and this is a folder",
            path=path,
            remedy="Name one scan. In a BIDS dataset, those of its session are used.",
        )
    if is_dataset:
        from mrbridge.inference.bids import translate_dataset

        return translate_dataset(request, path, target, workers)
    if is_folder:
        from mrbridge.inference.batch import translate_folder

        return translate_folder(request, path, target, workers)
    with at_work_on(path):
        if dicom:
            from mrbridge.inference.dicom import translate_series  # half a second

            return Translations([translate_series(request, path, target)])
        return Translations([translate_file(request, path, target)])


def _output_grid(settings: TranslateSettings, reference: Scan | None) -> OutputGrid | None:
    """The grid of the results; None: that of each scan.

    Raises:
        InputError: the reference cannot be read, or is a 2D image.
        SettingsError: there is a spacing as well.
    """
    if reference is None:
        return OutputGrid(settings.spacing) if settings.spacing else None
    if settings.spacing:
        raise SettingsError("--spacing and --grid exclude each other", remedy="Leave one out.")
    if not isinstance(reference, str | Path):
        return OutputGrid.of_reference(as_volume(reference, 0))
    path = Path(localise(reference))
    try:
        return OutputGrid.of_reference(read(path, volume=0))  # all of its volumes have one grid
    except InputError as error:
        error.path = error.path or path
        raise


def _check_settings(
    settings: TranslateSettings, path: Path | None, dicom: bool, is_dataset: bool
) -> None:
    """Refuse settings that do not apply to this kind of input (InputError, OutputError or
    SettingsError); a scan in memory has no path."""
    if not dicom and settings.form == "dicom":
        raise OutputError(
            "cannot become DICOM: it has no patient, no study and no frame of reference, and "
            "invented ones would be worse than none",
            path=path,
            remedy="Translate the DICOM series that it was converted from.",
        )
    nifti_from_image2d = settings.form is not None and (path is None or is_2d(path))
    if not dicom and (settings.series is not None or settings.allow_gaps or nifti_from_image2d):
        raise InputError(
            "is not a DICOM series", path=path, remedy="Leave out --series, --allow-gaps and --as."
        )
    selection = settings.participants, settings.sessions, settings.bids_filter
    if not is_dataset and selection != ((), (), None):
        raise SettingsError(
            "participants, sessions and filters are for BIDS datasets",
            path=path,
            remedy="Leave them out, or name the folder of a dataset.",
        )


def _reference(translator: Translator, match: Scan, *, force: bool) -> Volume:
    """The scan whose intensity range is matched, from a path or an object.

    Only its brain, if the model takes skull-stripped scans and a brain mask is next to the file.
    InputError if it is known to be something else than a scan, unless `force`.
    """
    path = Path(localise(match)) if isinstance(match, str | Path) else None
    scan = as_volume(match) if path is None else read(path)
    if scan.other and not force:
        raise InputError(scan.other, path=path, remedy="Match another scan, or use --force.")
    mask = None if path is None else brain_mask(translator.bundle, path)
    if mask is None:
        return scan
    brain = find_brain(Head(scan), "mask", mask)
    return replace(scan, voxels=np.where(brain, scan.voxels, 0).astype(scan.voxels.dtype))
