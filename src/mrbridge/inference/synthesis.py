"""One scan: whether it may be translated, into what, and its translation in memory."""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mrbridge.bundle import Bundle
from mrbridge.errors import InputError, SettingsError, about
from mrbridge.inference.additional_scans import AdditionalScan, PlacedScan, place
from mrbridge.inference.input_check import check
from mrbridge.inference.output_grid import OutputGrid
from mrbridge.inference.settings import TranslateSettings
from mrbridge.inference.translator import Translator
from mrbridge.io import is_readable, read
from mrbridge.io.contrast import recognised
from mrbridge.preprocessing.foreground import black_background
from mrbridge.preprocessing.intensity import IntensityNormalisation
from mrbridge.preprocessing.skull_strip import read_brain_mask
from mrbridge.reports import counted
from mrbridge.volume import Verdict, Volume

log = logging.getLogger(__name__)

_LEVELS = 1000
"""With fewer grey levels than this over the intensity range, detail is lost."""


@dataclass(frozen=True)
class Request:
    """The model and the settings with which every scan of a call is translated. Picklable.

    Attributes:
        match: a scan whose intensity range the results get; None: the typical range.
        grid: that of the results; None: the grid of each scan.
        additional: other scans of the person, where it is about one scan.
    """

    translator: Translator
    settings: TranslateSettings
    match: Volume | None = None
    grid: OutputGrid | None = None
    additional: tuple[AdditionalScan, ...] = ()

    @property
    def bundle(self) -> Bundle:
        """The model."""
        return self.translator.bundle

    def combined(self, given: tuple[str, ...]) -> tuple[str, ...]:
        """The contrasts of a session, the best first, that are used together.

        Only the first, unless more are wanted and the model takes them; with an uncertainty map,
        the largest subset for which the model's uncertainty is calibrated.
        """
        if not self.settings.combine or self.bundle.manifest.any_contrast is None:
            return given[:1]
        if not self.settings.uncertainty:
            return given
        bundle, to = self.bundle, self.target_for(None)
        first, *others = given
        subsets = (
            (first, *chosen)
            for count in range(len(others), 0, -1)
            for chosen in combinations(others, count)
        )
        known = (
            one for one in subsets if self.translator.knows_uncertainty(bundle.direction(one, to))
        )
        used = next(known, (first,))
        if used != given:
            log.warning(
                "%s: the model's uncertainty was not calibrated for this, so it takes %s only",
                bundle.direction(given, to).name,
                " and ".join(used),
            )
        return used

    def read(self, path: Path, *, is_additional: bool = False) -> Volume:
        """Read a scan, with the errors of `mrbridge.io.read`; a contrast that only the model knows,
        such as `CT`, is known by its name. An additional scan may be of one volume where the
        settings choose a volume."""
        settings = self.settings
        with recognised(self.bundle.contrasts):
            if is_additional and settings.volume:
                with suppress(InputError):  # it has several, or the next line says what is wrong
                    return read(path, assume=settings.assume)
            return read(path, volume=settings.volume, assume=settings.assume)

    def target_for(self, known: str | None) -> str:
        """The contrast to synthesise from a scan whose contrast is known, or not (None)."""
        return self.settings.to or self.bundle.target_for(known)

    def assumed(self, to: str) -> str:
        """The contrast that a scan of unknown contrast is treated as having."""
        given = [one.contrast for one in self.additional]
        taken = self.bundle.preferred(to)
        return next((one for one in taken if one not in given), taken[0])

    def assumption(self, to: str) -> str:
        """The warning about a scan of unknown contrast that is translated into `to`."""
        if self.bundle.direction((None,), to).given == (None,) and not self.additional:
            return "nothing identifies its contrast; translating it as an unknown one"
        return f"nothing identifies its contrast; assuming it is {self.assumed(to)}"


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
        volume: the synthetic scan, on the same grid or on that of the request.
        contrast: contrast of the synthetic scan.
        planes: planes in which the scan was sliced.
        rounding: how intensities became integers; None for float32.
        verdict: whether the model knows this kind of scan.
        uncertainty: the uncertainty map, float32 in the units of `volume`; None unless it was
            asked for.
        additional: other scans of the person that it was made from, too.
        notes: what reading repaired or assumed, and what contrast was assumed.
    """

    source: Volume
    volume: Volume
    contrast: str
    planes: tuple[str, ...]
    rounding: Rounding | None
    verdict: Verdict
    uncertainty: Volume | None
    additional: tuple[PlacedScan, ...]
    notes: tuple[str, ...]


def synthesise(request: Request, scan: Volume, path: Path | None) -> Synthesis:
    """Translate a scan.

    Args:
        scan: the scan, as `io.read` returns it.
        path: its file, for messages and its brain mask; None for an object.

    Raises:
        ScanRefused: it is synthetic, of the wanted contrast already, or of a contrast that the
            model does not take, or does not look like a scan that the model knows.
        InputError: it cannot be translated.
        SettingsError: it is a 2D image, and the number type is not float32.
    """
    translator, settings = request.translator, request.settings
    standard = request.bundle.manifest.standard
    to, notes = request.target_for(scan.contrast), list(scan.notes)
    matched = None if request.match is None else request.match.contrast
    if matched not in (None, to) and not settings.force:
        raise InputError(
            f"the scan to match is {matched}, and the result {to}",
            path=path,
            remedy=f"Match a {to} scan, or use --force.",
        )

    def tell(note: str) -> None:
        notes.append(note)
        log.warning("%s: %s", _name(path), note)

    if scan.is_2d:
        _check_2d(request, scan, path)
    source, grid = scan, None
    if request.grid is not None:
        with about(path):
            grid = request.grid.for_scan(scan)
        scan = request.grid.refined(scan, grid, standard.spacing_mm)
    if source.contrast is None and not source.other and request.additional:
        scan = replace(scan, contrast=request.assumed(to))
    placed = place(request, scan, to)
    with about(path):  # the voxels do not know their file
        known, is_head = request.bundle.contrasts, standard.foreground == "head"
        verdict, found = check(scan, to, known, is_head=is_head, force=settings.force)
        if source.contrast is None:
            (notes.append if path is None or source.other else tell)(request.assumption(to))
        known_as = request.bundle.direction((scan.contrast,), to).given[0]
        scan = black_background(scan, known_as, tell)
        preprocessed = translator.preprocess(scan, to, brain_mask(request.bundle, path), found)
        volume = translator.translate(
            scan,
            to,
            also={one.contrast: one.volume for one in placed},
            match=request.match,
            uncertainty=settings.uncertainty,
            preprocessed=preprocessed,
        )
    uncertainty, rounding = None, None
    if volume.uncertainty is not None:
        uncertainty = replace(volume, voxels=volume.uncertainty, uncertainty=None)
        volume = replace(volume, uncertainty=None)
    if request.grid is not None and grid is not None:
        volume = request.grid.place(volume, grid, "cubic")
        if uncertainty is not None:
            uncertainty = request.grid.place(uncertainty, grid, "linear")
    if settings.dtype != "float32":
        range_out = translator.range_of(to, request.match)
        volume, rounding = to_integers(volume, settings.dtype, range_out)
        log.info(
            "%s: rounded to %s after multiplication by %g, %s clipped",
            _name(path),
            *(rounding.dtype, rounding.factor, counted(rounding.clipped, "voxel")),
        )
        if uncertainty is not None:
            voxels = uncertainty.voxels * np.float32(rounding.factor)
            uncertainty = replace(uncertainty, voxels=voxels)
    planes = translator.planes_of(scan, preprocessed)
    return Synthesis(
        source, volume, to, planes, rounding, verdict, uncertainty, placed, tuple(notes)
    )


def report_verdict(synthesis: Synthesis, path: Path | None) -> None:
    """Warn of a verdict that is not `usual`, once the translation is written."""
    verdict = synthesis.verdict
    if verdict.level != "usual":
        how = "unusual" if verdict.level == "unusual" else "refused, and translated by --force"
        log.warning("%s: %s: %s", _name(path), how, "; ".join(verdict.reasons))


def _check_2d(request: Request, scan: Volume, path: Path | None) -> None:
    """Refuse options that a 2D image cannot follow.

    Raises:
        InputError: its pixels cannot hold the range of the scan to match.
        SettingsError: another number type.
    """
    if request.settings.dtype != "float32":
        raise SettingsError("a 2D image keeps its bit depth", path=path, remedy="Leave out dtype.")
    match = request.match
    depths = [getattr(one.header, "depth", None) for one in (scan, match) if one is not None]
    if match is not None and depths[0] is not None and depths[0] != depths[1]:
        raise InputError(
            f"has {depths[0]} bits, and the scan to match is not a 2D image of {depths[0]} bits",
            path=path,
            remedy="Match another one, or leave out --match.",
        )


def to_integers(
    volume: Volume, dtype: str, range_out: IntensityNormalisation
) -> tuple[Volume, Rounding]:
    """Round a synthetic scan to integers; zero stays zero. `range_out` is the intensity range of
    synthetic scans, the same for all that are compared."""
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


def _name(path: Path | None) -> str:
    """A scan in messages: the folder of a DICOM study may bear the name of the patient.

    Bytes that are not text become escapes, since logs go to places that only take UTF-8.
    """
    if path is None:
        return "the scan"
    name = path.name.encode("utf-8", "backslashreplace").decode()
    return name if is_readable(path) else "the series"


def brain_mask(bundle: Bundle, path: Path | None) -> Volume | None:
    """The brain mask next to a scan, for models of scans that were masked in that way."""
    if path is None or not path.is_file():
        return None
    return read_brain_mask(path, bundle.manifest.standard)
