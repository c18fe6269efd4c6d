"""The verb `translate`: 2D images, volumes, folders, BIDS datasets, DICOM series and objects."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from mrbridge.bundle import Bundle
from mrbridge.errors import InputError, MrbridgeWarning, OutputError, SettingsError, at_work_on
from mrbridge.inference.additional_scans import parse
from mrbridge.inference.output import Translations, mark, translate_file
from mrbridge.inference.output_grid import OutputGrid
from mrbridge.inference.settings import TranslateSettings
from mrbridge.inference.synthesis import Request, brain_mask, report_verdict, synthesise
from mrbridge.inference.translator import Translator
from mrbridge.io import is_dicom, read
from mrbridge.io.contrast import Identity, of_path, recognised
from mrbridge.io.formats import is_2d
from mrbridge.io.padding import without_padding
from mrbridge.io.remote import localise
from mrbridge.models import SHIPPED
from mrbridge.parallel import Workers, reachable
from mrbridge.preprocessing.foreground import Head
from mrbridge.preprocessing.skull_strip import find_brain
from mrbridge.volume import Volume

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage  # nibabel, which 2D images do not need

Image = TypeVar("Image", bound="SpatialImage")
ArrayAndAffine = tuple[NDArray[Any], NDArray[Any]]
"""Voxels, shape (i, j, k), and the affine, shape (4, 4), from voxel index to RAS+ mm."""

Scan: TypeAlias = "str | Path | Volume | SpatialImage | ArrayAndAffine"
"""A path or URL, or a scan in memory."""

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
        nibabel image, an image of the same class; for a `Volume` or an array, a `Volume`: shape
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
    reference = None if match is None else _reference(translator, match)
    additional = parse(also)
    request = Request(translator, settings, reference, _output_grid(settings, grid), additional)
    if additional and not request.takes_several:
        raise SettingsError(
            "this model takes one scan", path=translator.bundle.path, remedy="Leave out --also."
        )
    with recognised(request.contrasts):
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
    made = _in_kind_of(image, synthesis.volume, mark(synthesis.contrast))
    if isinstance(made, Volume):
        made = replace(made, verdict=synthesis.verdict)
    else:
        made.verdict = synthesis.verdict
    if synthesis.uncertainty is None:
        return made
    if isinstance(made, Volume):
        return replace(made, uncertainty=synthesis.uncertainty.voxels)
    made.uncertainty = _in_kind_of(image, synthesis.uncertainty, mark(synthesis.contrast))
    return made


def _translate_path(request: Request, path: Path, target: Path, workers: Workers) -> Translations:
    """The results for a file, a folder, a dataset or a DICOM series."""
    settings = request.settings
    dicom = is_dicom(path)  # first: folders called sub-01 may hold what a scanner sent
    is_dataset = not dicom and path.is_dir() and _is_bids(path)
    _check_settings(settings, path, dicom, is_dataset)
    if request.additional and path.is_dir() and not dicom:
        raise SettingsError(
            "additional scans belong to one scan, and this is a folder",
            path=path,
            remedy="Name one scan. In a BIDS dataset, those of its session are used.",
        )
    if is_dataset:
        from mrbridge.inference.bids import translate_dataset

        return translate_dataset(request, path, target, workers)
    if path.is_dir() and not dicom:
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


def _is_bids(folder: Path) -> bool:
    from mrbridge.io.bids import is_bids  # which a file does not need

    return is_bids(folder)


def _check_settings(
    settings: TranslateSettings, path: Path | None, dicom: bool, is_dataset: bool
) -> None:
    """Refuse settings that do not apply to this kind of input; a scan in memory has no path.

    Raises:
        InputError, OutputError, SettingsError: one does not.
    """
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


def _reference(translator: Translator, match: Scan) -> Volume:
    """The scan whose intensity range is matched, from a path or an object.

    Only its brain, if the model takes skull-stripped scans and a brain mask is next to the file.
    """
    if not isinstance(match, str | Path):
        return as_volume(match)
    path = Path(localise(match))
    scan, mask = read(path), brain_mask(translator, path)
    if mask is None:
        return scan
    brain = find_brain(Head(scan), "mask", mask)
    return replace(scan, voxels=np.where(brain, scan.voxels, 0).astype(scan.voxels.dtype))


def as_volume(image: Any, index: int | None = None, assume: str | None = None) -> Volume:
    """A scan in memory as a `Volume`.

    Args:
        image: a `Volume`; a nibabel image of 3 axes (or 4, with `index`); or a pair of an array
            (i, j, k) and its affine (4, 4) to RAS+ mm.
        index: which volume of an image of 4 axes.
        assume: the orientation, such as RAS, of a NIfTI image that states none.

    Returns:
        Finite voxels: NaN, infinity, padding and what a masked array masks are replaced, with a
        warning, as in files. A nibabel image that was read from a file, or written, has the
        contrast that its name says.

    Raises:
        InputError: it is not one of these, or does not hold real numbers.
    """
    if isinstance(image, Volume):
        return replace(image, voxels=_finite(image.voxels))
    from nibabel.spatialimages import SpatialImage

    if isinstance(image, SpatialImage):
        if image.affine is None:
            raise InputError("the image has no affine", remedy="Give it one.")
        voxels = _three_axes(np.asanyarray(image.dataobj), index)
        affine = _affine_of(image, voxels.shape, assume)
        marked = "descrip" in image.header and _says_synthetic(image.header["descrip"])
        name, identity = image.get_filename(), Identity()
        if name is not None:
            identity = of_path(Path(Path(name).resolve().parent.name, Path(name).name))
        return Volume(
            _finite(voxels),
            affine,
            contrast=identity.contrast,
            other=identity.objection if not marked or identity.is_other else None,
            synthetic=marked,
        )
    if isinstance(image, tuple) and len(image) == 2:
        try:
            voxels, affine = np.asanyarray(image[0]), np.asarray(image[1], np.float64)
        except (TypeError, ValueError, RuntimeError) as error:  # such as tensors with a gradient
            raise InputError(
                f"cannot become arrays ({error})", remedy="Pass NumPy arrays of numbers."
            ) from None
        if affine.shape != (4, 4):
            raise InputError(
                f"the affine has shape {affine.shape}", remedy="Pass one of shape (4, 4)."
            )
        _check_affine(affine)
        return Volume(_finite(_three_axes(voxels, index)), affine)
    raise InputError(
        f"a {type(image).__name__} is not a scan",
        remedy="Pass a path, a Volume, a nibabel image, or (array, affine).",
    )


def _in_kind_of(image: Any, volume: Volume, note: str) -> Any:
    """The result as the same kind of object: a nibabel image for one, else a `Volume`."""
    from nibabel.spatialimages import SpatialImage

    from mrbridge.io.nifti import mark as mark_header

    if not isinstance(image, SpatialImage):
        return volume
    header = image.header.copy()
    header.set_data_dtype(volume.voxels.dtype)
    header.set_data_shape(volume.voxels.shape)
    mark_header(header, note)
    if getattr(header, "extensions", None):
        header.extensions = type(header.extensions)()  # they may name the patient
    return type(image)(volume.voxels, volume.affine, header)


def _affine_of(
    image: SpatialImage, shape: tuple[int, ...], assume: str | None
) -> NDArray[np.float64]:
    """The affine of a nibabel image, which makes one up for NIfTI files that state none."""
    from nibabel.nifti1 import Nifti1Header

    from mrbridge.io.nifti_header import find_affine

    affine, header = np.asarray(image.affine, np.float64), image.header
    if isinstance(header, Nifti1Header) and not (header["sform_code"] or header["qform_code"]):
        notes: list[str] = []
        affine = find_affine(header.copy(), shape, assume, notes)
        for note in notes:
            warnings.warn(note, MrbridgeWarning, stacklevel=4)
    _check_affine(affine)
    return affine


def _check_affine(affine: NDArray[np.float64]) -> None:
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise InputError("the affine has no inverse", remedy="Pass the affine of the image.")
    if not np.allclose(affine[3], (0, 0, 0, 1)):
        raise InputError(
            f"the last row of the affine is {affine[3].tolist()}, not 0, 0, 0, 1",
            remedy="Pass the affine of the image.",
        )


def _three_axes(voxels: NDArray[Any], index: int | None) -> NDArray[Any]:
    while voxels.ndim > 3 and voxels.shape[-1] == 1:
        voxels = voxels[..., 0]
    count = voxels.shape[3] if voxels.ndim == 4 else 1
    if index is not None and index >= count:
        raise InputError(f"has no volume {index}", remedy=f"Choose one of 0..{count - 1}.")
    if voxels.ndim == 4 and index is not None:
        voxels = voxels[..., index]
    if voxels.ndim != 3:
        raise InputError(
            f"the image has the shape {voxels.shape}, not three axes",
            remedy="Choose one volume of it.",
        )
    return voxels


def _finite(voxels: NDArray[Any]) -> NDArray[Any]:
    if isinstance(voxels, np.ma.MaskedArray) and voxels.dtype.kind in "biuf":
        voxels = np.ma.filled(voxels.astype(np.float64), np.nan)  # what is masked is not known
    voxels = np.asarray(voxels)
    if voxels.dtype.kind not in "biuf" or voxels.size == 0:
        raise InputError(
            f"voxels of shape {voxels.shape} and type {voxels.dtype} are not a real image",
            remedy="Pass real numbers, at least one.",
        )
    if voxels.dtype.kind == "f":
        with np.errstate(over="ignore"):  # as in files
            voxels = voxels.astype(np.float32, copy=False)
        if not np.isfinite(voxels).any():
            raise InputError("the image has no finite voxel", remedy="Leave it out.")
    voxels, notes = without_padding(voxels)
    for note in notes:
        warnings.warn(note, MrbridgeWarning, stacklevel=4)
    return voxels


def _says_synthetic(description: Any) -> bool:
    return bytes(description.item()).decode("latin-1").lower().startswith("synthetic")
