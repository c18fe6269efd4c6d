"""The translator: a bundle, ready to turn scans into the other contrast."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrbridge.bundle import Bundle, load_bundle
from mrbridge.errors import BundleError
from mrbridge.inference.engines import Engine, Stack, choose_engine, open_engine
from mrbridge.inference.planes import Mask, check_planes, in_three_planes, planes_for
from mrbridge.io.picture import is_eight_bit
from mrbridge.models import SHIPPED, is_installed
from mrbridge.preparation.crop import head_crop
from mrbridge.preparation.geometry import fit_size, size_multiple
from mrbridge.preparation.intensity import WINDOW, IntensityRecipe
from mrbridge.preparation.pipeline import Standard, standardise
from mrbridge.volume import Volume

EMPTY = 0.002
"""A slice with a smaller share of foreground is background throughout: instance norm would blow
its noise up to an image."""

FAINT = 0.02
"""Likewise, instance norm makes so much of the little in a slice with a smaller share that rounding
to bfloat16 shows: up to 3 % of the range, measured, instead of less than 1 %."""


class Translator:
    """Translates volumes and slices with the generators of a bundle.

    Args:
        model: a bundle, the path of a run or bundle, or `shipped`.
        device: `auto`, `cpu` or `cuda`.
        engine: what computes: `auto` or one of `mrbridge.inference.engines.ENGINES`.
        planes: in which volumes are cut: one of `volume.Planes`; None takes the bundle's.

    Raises:
        BundleError: the bundle cannot be used.
        SettingsError: there is no such device, engine or choice of planes, or the engine is not
            installed.
    """

    def __init__(
        self,
        model: Bundle | str | Path,
        device: str = "auto",
        engine: str = "auto",
        planes: str | None = None,
    ) -> None:
        check_planes(planes)
        self.engine, self.device = choose_engine(engine, device)
        self.bundle = model if isinstance(model, Bundle) else load_bundle(model)
        self.planes = planes or self.bundle.manifest.planes
        self._engines: dict[str, Engine] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, it is the path of its bundle, which is loaded again; without a path, all of it.

        A bundle that is another one by then is refused.
        """
        given = self.device.type, self.engine, self.planes
        path = self.bundle.path
        if path is None:
            return Translator, (self.bundle, *given)
        model = SHIPPED if is_installed(path) else str(path.absolute())
        return _reopened, (model, self.bundle.hash, *given)

    def translate(
        self,
        volume: Volume,
        to: str | None = None,
        *,
        match: Volume | None = None,
        mask: Volume | None = None,
    ) -> Volume:
        """Translate a scan; the result lies on its grid, with its header.

        Args:
            volume: the scan; voxels of any real type.
            to: the contrast to make; None makes the bundle's target, or its source if the scan is
                known to be of the target contrast.
            match: a scan of the wanted contrast whose range of intensities the result gets,
                instead of the range that is typical for the training data.
            mask: the brain mask that belongs to the scan, for models that want one.

        Returns:
            float32 voxels, finite; marked as synthetic. Voxels that are exactly zero outside the
            anatomy stay zero; where the model was trained on skull-stripped scans, everything
            outside the brain is zero.

        Raises:
            SettingsError: the bundle does not make this contrast.
            InputError: the scan is constant or empty, or no plausible brain was found in it.
        """
        return self.translate_and_tell(volume, to, match=match, mask=mask)[0]

    def translate_and_tell(
        self,
        volume: Volume,
        to: str | None = None,
        *,
        match: Volume | None = None,
        mask: Volume | None = None,
    ) -> tuple[Volume, tuple[str, ...]]:
        """As `translate`, and in which planes the scan was cut, such as `("axial",)`."""
        to = self.choose_contrast(volume, to)
        other = self.bundle.source if to == self.bundle.target else self.bundle.target
        levels = self.bundle.manifest.typical[other].levels
        standard = standardise(volume, self.bundle.manifest.standard, mask, levels)
        planes = planes_for(standard.crop(volume), self.planes)
        made = self._translate_stack(standard, to, planes)
        range_out = self._range_for(volume, standard, to, match)
        outside = float(range_out.restore(np.full(1, -1, np.float32))[0])
        voxels = standard.to_voxels(range_out.restore(made), outside).astype(np.float32)
        background = standard.to_voxels((~standard.foreground).astype(np.float32), 1.0) > 0.5
        voxels[background & (volume.voxels == 0)] = 0
        if standard.brain is not None:
            voxels[~standard.brain] = 0
        return replace(volume, voxels=voxels, contrast=to, synthetic=True), planes

    def translate_slices(
        self,
        slices: Stack,
        to: str,
        *,
        foreground: Mask | None = None,
        least: tuple[int, int] | None = None,
    ) -> Stack:
        """Translate standardised slices.

        Args:
            slices: shape (slices, rows, columns), range [-1, 1].
            to: the contrast to make.
            foreground: the same shape; slices with next to none of it become background (-1),
                and those with little of it are computed in float32.
            least: rows and columns to which smaller slices are padded; None takes the bundle's
                `least_size`, which suits axial slices.

        Returns:
            The same shape and range, float32.
        """
        engine = self._engine_for(to)
        sizes = zip(slices.shape[1:], least or 2 * (self.bundle.manifest.least_size,), strict=True)
        rows, columns = (size_multiple(max(size), engine.multiple) for size in sizes)
        wanted = np.arange(len(slices))
        faint = np.zeros(len(slices), bool)
        if foreground is not None:
            shares = _shares(foreground)
            wanted, faint = np.flatnonzero(shares >= EMPTY), shares < FAINT
        made = np.full(slices.shape, -1, np.float32)
        for precise in (False, True):
            chosen = wanted[faint[wanted] == precise]
            if chosen.size:
                fitted, undo = fit_size(slices[chosen], rows, columns)
                made[chosen] = undo(engine.run(fitted, precise), -1.0)
        return made

    def planes_for(self, volume: Volume) -> tuple[str, ...]:
        """In which planes a volume is cut by this translator, such as `("axial",)`."""
        crop = head_crop(volume, self.bundle.manifest.standard.margin_mm)
        return planes_for(crop(volume), self.planes)

    def _translate_stack(self, standard: Standard, to: str, planes: tuple[str, ...]) -> Stack:
        """Translate the slices of a volume; the mean where they are cut in several planes."""
        slices, foreground = standard.slices, standard.foreground
        if planes == ("axial",):
            return self.translate_slices(slices, to, foreground=foreground)

        size = self.bundle.manifest.least_size
        around = size - slices.shape[1]  # above and below heads in the axial slices of training

        def make(part: Stack, foreground: Mask) -> tuple[Stack, Mask]:
            least = (part.shape[1] + around, size)
            made = self.translate_slices(part, to, foreground=foreground, least=least)
            return made, _shares(foreground) >= EMPTY

        return in_three_planes(slices, foreground, standard.grid, make)

    def choose_contrast(self, volume: Volume, to: str | None) -> str:
        """The contrast to make of a scan: `to`, or the one that the scan is not.

        Raises:
            SettingsError: the bundle does not make it.
        """
        if to is None:
            source, target = self.bundle.source, self.bundle.target
            return source if volume.contrast == target else target
        self.bundle.must_make(to)
        return to

    def range_of(self, to: str, match: Volume | None) -> IntensityRecipe:
        """The range of intensities that syntheses of volumes get: of `match`, or the typical one.

        Raises:
            InputError: `match` is constant or empty.
        """
        if match is not None:
            levels = self.bundle.manifest.typical[to].levels
            still = self.bundle.manifest.standard.model_copy(update={"align": "none"})
            return standardise(match, still, None, levels).recipe
        return self.bundle.manifest.typical[to]

    def _engine_for(self, to: str) -> Engine:
        generator = self.bundle.generator_that_makes(to)
        if generator not in self._engines:
            self._engines[generator] = open_engine(self.engine, self.bundle, generator, self.device)
        return self._engines[generator]

    def _range_for(
        self, volume: Volume, standard: Standard, to: str, match: Volume | None
    ) -> IntensityRecipe:
        """Which intensities -1 and 1 stand for in the result."""
        if match is None and volume.is_picture and not self.bundle.manifest.pictures:
            # Its own range: it has no typical one. 8 bit have too few levels to use a part of them.
            return WINDOW if is_eight_bit(volume) else standard.recipe
        return self.range_of(to, match)


def _shares(foreground: Mask) -> NDArray[np.float64]:
    """Of each slice, how much is foreground."""
    return foreground.mean(axis=(1, 2))


@lru_cache(maxsize=1)
def _reopened(model: str, sha256: str, device: str, engine: str, planes: str) -> Translator:
    """A translator that was sent to this process, loaded once.

    Raises:
        BundleError: the bundle is absent, damaged, or another one by now.
        SettingsError: the device or the engine is not there.
    """
    translator = Translator(model, device, engine, planes)
    if translator.bundle.hash != sha256:
        raise BundleError(
            "was replaced since the work began", path=translator.bundle.path, remedy="Begin again."
        )
    return translator
