"""One scan: whether it may be translated, into what, and its translation."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mrbridge.errors import InputError, SettingsError
from mrbridge.inference.settings import TranslateSettings
from mrbridge.inference.translator import Translator
from mrbridge.io import is_readable
from mrbridge.preprocessing.intensity import IntensityNormalisation
from mrbridge.preprocessing.skull_strip import read_brain_mask
from mrbridge.volume import Volume

log = logging.getLogger(__name__)

_LEVELS = 1000
"""With fewer grey levels than this over the intensity range, detail is lost."""


@dataclass(frozen=True)
class Request:
    """The model and the settings with which every scan of a call is translated. Picklable.

    Attributes:
        translator: the model on its device.
        settings: what to synthesise, and from which scans.
        match: a scan whose intensity range the results get; None: the typical range.
    """

    translator: Translator
    settings: TranslateSettings
    match: Volume | None = None

    def target_for(self, known: str | None) -> str:
        """The contrast to synthesise from a scan whose contrast is known, or not (None)."""
        bundle = self.translator.bundle
        return self.settings.to or (bundle.source if known == bundle.target else bundle.target)

    def assumption(self, to: str) -> str:
        """The warning about a scan of unknown contrast that is translated into `to`."""
        bundle = self.translator.bundle
        assumed = bundle.source if to == bundle.target else bundle.target
        return f"nothing says which contrast it is; assuming it is {assumed}"


@dataclass(frozen=True)
class Rounding:
    """How intensities became integers. Files of integers have slope 1 and intercept 0.

    Attributes:
        dtype: the number type.
        factor: what intensities were multiplied by before rounding.
        clipped: number of voxels outside the range of the type, which were set to its end.
    """

    dtype: str
    factor: float
    clipped: int

    def as_json(self) -> dict[str, Any]:
        """The entry in sidecars and reports."""
        return {"NumberType": self.dtype, "Factor": self.factor, "ClippedVoxels": self.clipped}


@dataclass(frozen=True)
class Synthesis:
    """A scan and its translation.

    Attributes:
        source: the scan as it was read.
        volume: the synthetic scan on the same grid.
        contrast: contrast of the synthetic scan.
        planes: planes in which the scan was sliced.
        rounding: how intensities became integers; None for float32.
    """

    source: Volume
    volume: Volume
    contrast: str
    planes: tuple[str, ...]
    rounding: Rounding | None


def synthesise(request: Request, scan: Volume, path: Path | None) -> Synthesis:
    """Translate a scan.

    Args:
        request: the model and the settings.
        scan: the scan, as `io.read` returns it.
        path: its file, for messages and its brain mask; None for an object.

    Raises:
        InputError: it is synthetic, of the wanted contrast already, or of a contrast that the
            model does not take.
        SettingsError: it is a 2D image, and the number type is not float32.
    """
    translator, dtype = request.translator, request.settings.dtype
    to = _checked_target(request, scan, path)
    if dtype != "float32" and scan.is_2d:
        raise SettingsError(
            "a 2D image keeps its bit depth", path=path, remedy="Leave out the number type."
        )
    mask = brain_mask(translator, path)
    try:
        volume, planes = translator.translate_with_planes(scan, to, match=request.match, mask=mask)
    except InputError as error:  # of the voxels, which do not know their file
        raise InputError(error.what, path=error.path or path, remedy=error.remedy) from error
    rounding: Rounding | None = None
    if dtype != "float32":
        volume, rounding = to_integers(volume, dtype, translator.range_of(to, request.match))
        log.info(
            "%s: rounded to %s after multiplication by %g, %d voxels clipped",
            "the scan" if path is None else path.name,
            *(rounding.dtype, rounding.factor, rounding.clipped),
        )
    return Synthesis(scan, volume, to, planes, rounding)


def to_integers(
    volume: Volume, dtype: str, range_out: IntensityNormalisation
) -> tuple[Volume, Rounding]:
    """Round a synthetic scan to integers; zero stays zero.

    Args:
        volume: float32 voxels.
        dtype: a number type of integers.
        range_out: the intensity range of synthetic scans, the same for all that are compared.
    """
    limits = np.iinfo(dtype)
    factor = integer_factor(max(abs(range_out.low), abs(range_out.high)), int(limits.max))
    values = np.rint(volume.voxels.astype(np.float64) * factor)
    clipped = int(np.count_nonzero((values < limits.min) | (values > limits.max)))
    voxels = np.clip(values, limits.min, limits.max).astype(dtype)
    return replace(volume, voxels=voxels), Rounding(dtype, factor, clipped)


def integer_factor(top: float, limit: int) -> float:
    """The factor for intensities up to `top` that are stored as integers up to `limit`.

    1 if that leaves a thousand grey levels and all fit; otherwise the nearest power of ten of which
    both are true; otherwise the factor that uses the whole range of the type.
    """
    exponent = 0
    if top > limit:
        exponent = math.floor(math.log10(limit / top))
    elif top < _LEVELS:
        exponent = math.ceil(math.log10(_LEVELS / top))
    factor = 10.0**exponent
    return factor if min(_LEVELS, limit) <= factor * top <= limit else limit / top


def _checked_target(request: Request, scan: Volume, path: Path | None) -> str:
    """The contrast to synthesise from a scan.

    Raises:
        InputError: the scan is not one to translate.
    """
    bundle = request.translator.bundle
    to = request.translator.choose_contrast(scan, request.settings.to)
    if request.settings.force:
        return to
    if scan.other:
        raise InputError(scan.other, path=path, remedy="Name another scan, or use --force.")
    if scan.synthetic:
        raise InputError(
            "is synthetic already", path=path, remedy="Use --force to translate it anyway."
        )
    if scan.contrast == to:
        raise InputError(f"is {to} already", path=path, remedy="Choose --to, or use --force.")
    if scan.contrast not in (None, bundle.source, bundle.target):
        raise InputError(
            f"is {scan.contrast}; this model takes {bundle.source} and {bundle.target}",
            path=path,
            remedy="Name another scan, or use --force.",
        )
    if scan.contrast is None and path is not None:
        # The folder of a DICOM study may bear the name of the patient.
        name = path.name if is_readable(path) else "the series"
        log.warning("%s: %s", name, request.assumption(to))
    return to


def brain_mask(translator: Translator, path: Path | None) -> Volume | None:
    """The brain mask next to a scan, for models of scans that were masked in that way."""
    if path is None or not path.is_file():
        return None
    return read_brain_mask(path, translator.bundle.manifest.standard)
