"""The translator: a bundle, ready to turn scans into the other contrast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from mrbridge.bundle import Bundle, load_bundle
from mrbridge.errors import BundleError, InputError, SettingsError
from mrbridge.inference.planes import LEAST_MARGIN, height, how_many_computed, planes_for
from mrbridge.interruption import held
from mrbridge.io.image2d import is_eight_bit
from mrbridge.manifest import AnyContrast, Direction, Uncertainty
from mrbridge.models import SHIPPED, is_installed
from mrbridge.preprocessing.foreground import (
    FoundHead,
    Mask,
    Stack,
    black_background,
    crop_to_head,
)
from mrbridge.preprocessing.geometry import size_multiple, slice_grid
from mrbridge.preprocessing.intensity import WINDOW, IntensityNormalisation
from mrbridge.preprocessing.preprocess import Preprocessed, preprocess
from mrbridge.preprocessing.resample import grid_difference
from mrbridge.settings import Planes
from mrbridge.threads import sharing_the_machine
from mrbridge.volume import CONTRASTS, Volume

if TYPE_CHECKING:
    # PyTorch takes a second to import; a scan is read and checked first.
    import torch

    from mrbridge.inference.slices import SliceTranslator
    from mrbridge.networks.build import Generator
    from mrbridge.networks.unet import ScaleHead


class Translator:
    """Translates volumes and slices with the generators of a bundle.

    It can be pickled and used from several threads. Pickled, it is the path of its bundle, which
    is loaded again, once for each process; a bundle without a path is pickled as a whole.

    Args:
        model: a bundle, the path of a run or bundle, or `shipped`.
        device: `auto`, `cpu` or `cuda`.
        planes: planes in which volumes are sliced, `axial` or `all`; None takes the bundle's.

    Attributes:
        bundle: the model.
        planes: `axial` or `all`.

    Raises:
        BundleError: the bundle cannot be used.
        SettingsError: there is no such device or choice of planes.
    """

    def __init__(
        self,
        model: Bundle | str | Path = SHIPPED,
        device: str = "auto",
        planes: str | None = None,
    ) -> None:
        if planes not in (None, *get_args(Planes)):
            raise SettingsError(
                f"there are no planes '{planes}'", remedy=f"Choose {' or '.join(get_args(Planes))}."
            )
        self._device = device
        if device not in ("auto", "cpu"):
            self.device  # noqa: B018  # there may be no such device
        self.bundle = model if isinstance(model, Bundle) else load_bundle(model)
        self.planes = planes or self.bundle.manifest.planes
        self._networks: dict[str, Generator] = {}
        self._heads: dict[str, ScaleHead | None] = {}

    @cached_property
    def device(self) -> torch.device:
        """The device that computes."""
        with held(), sharing_the_machine():  # PyTorch reads it when it is loaded
            from mrbridge.hardware import choose_device

        return choose_device(self._device)

    def __reduce__(self) -> tuple[Any, ...]:
        path = self.bundle.path
        if path is None:
            return Translator, (self.bundle, self._device, self.planes)
        model = SHIPPED if is_installed(path) else str(path.absolute())
        allow_code = self.bundle.allow_code
        return _opened, (model, self.bundle.hash, self._device, self.planes, allow_code)

    def __repr__(self) -> str:
        bundle = self.bundle
        model = bundle.path or "in memory"
        return f"Translator({' ↔ '.join(bundle.contrasts)}, {model}, {self._device}, {self.planes})"

    def translate(
        self,
        volume: Volume,
        to: str | None = None,
        *,
        also: Mapping[str, Volume] | None = None,
        match: Volume | None = None,
        mask: Volume | None = None,
        uncertainty: bool = False,
        preprocessed: Preprocessed | None = None,
    ) -> Volume:
        """Translate a scan.

        Args:
            volume: the scan, shape (i, j, k); voxels of any real type.
            to: contrast to synthesise; None: the bundle's target, or its source if the scan is
                known to be of the target contrast.
            also: more scans of the same head by contrast, on the grid of `volume` and in register.
            match: a scan of the wanted contrast whose intensity range the result gets, instead
                of the range that is typical for the training data.
            mask: the brain mask of the scan, for models of skull-stripped scans.
            uncertainty: also make the uncertainty map.
            preprocessed: the scan by `preprocess`, if that was done.

        Returns:
            The synthetic scan, with the grid and header of the source: shape (i, j, k), float32,
            finite, marked as synthetic. Voxels that are exactly zero outside the anatomy stay
            zero; if the model was trained on skull-stripped scans, everything outside the brain
            is zero.

        Raises:
            SettingsError: the bundle does not make this contrast or takes no such scans, or has no
                uncertainty map.
            InputError: the scan is constant or empty, nothing or no plausible brain was found in
                it, or a scan of `also` is on another grid.
        """
        to = to or self.bundle.target_for(volume.contrast)
        also = also or {}
        direction = self.bundle.direction((volume.contrast, *also), to)
        if uncertainty and not self.knows_uncertainty(direction):
            raise SettingsError(
                f"this model's uncertainty was never calibrated for {direction.name}",
                path=self.bundle.path,
                remedy="Leave it out, or translate from other scans."
                if self.bundle.manifest.any_contrast
                else "Leave it out, use the shipped model, or train from it with pairs in the "
                "validation split.",
            )
        volume = black_background(volume, direction.given[0])
        preprocessed = preprocessed or self.preprocess(volume, to, mask)
        if not preprocessed.foreground.any():  # the result would be empty, too
            raise InputError("shows no object in any slice", remedy="Look at it, or leave it out.")
        stacks = self.stacks(volume, also, preprocessed, direction.given[0])
        planes = self.planes_of(volume, preprocessed)
        results = []
        for one in self.bundle.averaged(direction):
            image, *parts = self.computed(stacks, preprocessed, one, planes, uncertainty)
            results.append([image, self._half_width(one, planes, *parts)] if parts else [image])
        synthetic, *half_width = (_mean(parts) for parts in zip(*results, strict=True))
        range_out = self._range_for(volume, preprocessed, to, match)
        made, blank = restored(volume, preprocessed, synthetic, range_out, to)
        if not half_width:
            return made
        # The intensity range is piecewise linear (a knee), so the two ends of the interval are
        # restored, not its width.
        ends = [range_out.restore(synthetic + sign * half_width[0]) for sign in (-1, 1)]
        half = ((ends[1] - ends[0]) / 2).astype(np.float32)
        width = np.maximum(preprocessed.undo(half, 0.0), 0).astype(np.float32)
        width[blank] = 0
        return replace(made, uncertainty=width)

    def preprocess(
        self,
        volume: Volume,
        to: str,
        mask: Volume | None = None,
        found: FoundHead | None = None,
    ) -> Preprocessed:
        """Preprocess a scan as the model needs it; `found` is the head in it, if that was searched.
        InputError if the scan is constant or empty, or no plausible brain was found in it."""
        (contrast,) = self.bundle.direction((volume.contrast,), to).given
        levels = () if contrast is None else self.bundle.manifest.typical[contrast].levels
        volume = black_background(volume, contrast)
        return preprocess(volume, self.bundle.manifest.standard, mask, levels, found=found)

    def planes_of(self, volume: Volume, preprocessed: Preprocessed) -> tuple[str, ...]:
        """The planes in which a scan is sliced."""
        return planes_for(preprocessed.crop(volume), self.planes)

    def stacks(
        self,
        volume: Volume,
        also: Mapping[str, Volume],
        preprocessed: Preprocessed,
        contrast: str | None,
    ) -> dict[str | None, Stack]:
        """The slices of a scan of `contrast`, and of others of the same head, all cut like the
        first, by contrast.

        Raises:
            InputError: one of the others is on another grid, constant or empty.
        """
        stacks = {contrast: preprocessed.slices}
        for name, scan in also.items():
            if grid_difference(scan, volume) is not None:
                raise InputError(
                    f"the {name} scan is on another grid",
                    remedy="Resample it to that of the first scan.",
                )
            manifest, crop = self.bundle.manifest, preprocessed.crop
            levels = manifest.typical[name].levels
            scan = black_background(scan, name)
            stacks[name] = preprocess(scan, manifest.standard, None, levels, crop=crop).slices
        return stacks

    def computed(
        self,
        stacks: Mapping[str | None, Stack],
        preprocessed: Preprocessed,
        direction: Direction,
        planes: tuple[str, ...],
        with_error: bool,
    ) -> tuple[Stack, ...]:
        """What `SliceTranslator.in_planes` makes of `stacks`, by one generator."""
        slices = self.slice_translator(direction, with_scale=with_error)
        given = [stacks[contrast] for contrast in direction.given]
        return slices.in_planes(given, preprocessed, planes, spread=with_error)

    def _half_width(
        self, direction: Direction, planes: tuple[str, ...], scale: Stack, spread: Stack
    ) -> Stack:
        """Half the width of the 90 % interval, in [-1, 1]."""
        known = self.bundle.manifest.uncertainty
        assert known is not None
        factor = np.float32(self._factors(direction)[len(planes) == 1])
        return factor * (np.float32(known.least) + scale + np.float32(known.spread) * spread)

    def knows_uncertainty(self, direction: Direction) -> bool:
        """Whether the bundle makes uncertainty maps of this direction."""
        return all(self._factors(one) for one in self.bundle.averaged(direction))

    def translate_slices(self, slices: Stack, to: str, *, foreground: Mask | None = None) -> Stack:
        """Translate preprocessed slices.

        Args:
            slices: shape (slices, rows, columns), range [-1, 1].
            foreground: the same shape; slices with almost none become background (-1), those with
                little are computed in float32.

        Returns:
            The same shape and range, float32.
        """
        translate = self.slice_translator(self.bundle.direction((None,), to))
        return translate([slices], foreground, None)[0]

    def pixels(self, volume: Volume) -> int:
        """How many pixels a generator of the pair computes at most to translate a volume."""
        manifest = self.bundle.manifest
        multiple = manifest.networks.generator.multiple or 1
        found = crop_to_head(volume, manifest.standard.margin_mm)
        grid = slice_grid(found.head.volume, manifest.standard.spacing_mm)
        slices, rows, columns = (
            size + sum(added)
            for size, added in zip(grid.shape, found.crop.lacks(grid), strict=True)
        )

        def padded(size: int) -> int:
            return size_multiple(max(size, manifest.least_size), multiple)

        if planes_for(found.head.volume, self.planes) == ("axial",):
            return slices * padded(rows) * padded(columns)
        upright = padded(height(slices, grid))
        assert grid.spacing is not None
        spare = 2 * max(0, int(found.margin_mm / grid.spacing[1]) - LEAST_MARGIN)
        rows, columns = rows - spare, columns - spare
        sizes = (
            (slices, padded(rows) * padded(columns)),
            (rows, upright * padded(columns)),
            (columns, upright * padded(rows)),
        )
        return sum(
            how_many_computed(count, distance) * pixels
            for (count, pixels), distance in zip(sizes, grid.spacing, strict=True)
        )

    def _factors(self, direction: Direction) -> tuple[float, float] | tuple[()]:
        """The conformal factors of a direction in three planes and in one; empty if unknown."""
        manifest = self.bundle.manifest
        known: Uncertainty | AnyContrast | None = manifest.uncertainty
        name = direction.to
        if known is not None and direction.settings is not None:
            known, name = manifest.any_contrast, direction.name
        if known is None or name not in known.factor:
            return ()
        factor = known.factor[name]
        return factor, known.factor_in_one_plane.get(name, factor)

    def range_of(self, to: str, match: Volume | None) -> IntensityNormalisation:
        """The intensity range of synthetic volumes: that of a scan to match, or None, the typical
        one. InputError if `match` is constant or empty."""
        if match is not None:
            levels = self.bundle.manifest.typical[to].levels
            still = self.bundle.manifest.standard.model_copy(update={"align": "none"})
            return preprocess(match, still, None, levels).normalisation
        return self.bundle.manifest.typical[to]

    def slice_translator(
        self, direction: Direction, network: Generator | None = None, *, with_scale: bool = False
    ) -> SliceTranslator:
        """What computes slices of a direction, with the bundle's network or another one."""
        with held(), sharing_the_machine():
            from mrbridge.inference.slices import SliceTranslator

        settings = direction.settings or self.bundle.manifest.networks.generator
        return SliceTranslator(
            self._network(direction) if network is None else network,
            direction,
            self.device,
            self.bundle.manifest.least_size,
            settings.multiple or 1,
            self._scale_head(direction) if with_scale else None,
        )

    def _network(self, direction: Direction) -> Generator:
        """The generator of a direction, on the device."""
        name = direction.generator
        if name not in self._networks:
            self._networks[name] = self.bundle.build(name).to(self.device)
        return self._networks[name]

    def _scale_head(self, direction: Direction) -> ScaleHead | None:
        """The scale head of the generator of a direction, on the device."""
        name = direction.generator
        if name not in self._heads:
            head = self.bundle.build_scale_head(name, self._network(direction))
            self._heads[name] = None if head is None else head.to(self.device)
        return self._heads[name]

    def _range_for(
        self, volume: Volume, preprocessed: Preprocessed, to: str, match: Volume | None
    ) -> IntensityNormalisation:
        """The intensities that -1 and 1 stand for in the result."""
        manifest = self.bundle.manifest
        # A model of 2D images knows the range of those of its own bit depth.
        is_known = manifest.pictures and is_eight_bit(volume) == (
            manifest.typical[to].high <= WINDOW.high
        )
        if match is None and volume.is_2d and not is_known:
            # A 2D image has no typical range, so it keeps its own; 8 bits are used in full.
            return WINDOW if is_eight_bit(volume) else preprocessed.normalisation
        return self.range_of(to, match)


def _mean(stacks: Sequence[Stack]) -> Stack:
    """The mean of stacks of one shape; the first one itself if it is the only one."""
    if len(stacks) == 1:
        return stacks[0]
    mean: Stack = np.mean(stacks, axis=0, dtype=np.float32)
    return mean


def restored(
    volume: Volume,
    preprocessed: Preprocessed,
    synthetic: Stack,
    range_out: IntensityNormalisation,
    to: str,
) -> tuple[Volume, Mask]:
    """A synthetic scan, shape as the slices of its source, range [-1, 1], on the grid of its
    source, in the intensities `range_out`; and which voxels are blank, since nothing was scanned
    there: zero, or the background of a contrast that may be negative, such as CT."""
    outside = float(range_out.restore(np.full(1, -1, np.float32))[0])
    voxels = preprocessed.undo(range_out.restore(synthetic), outside).astype(np.float32)
    background = preprocessed.undo((~preprocessed.foreground).astype(np.float32), 1.0) > 0.5
    blank: Mask = background & (volume.voxels == 0)
    if preprocessed.brain is not None:
        blank |= ~preprocessed.brain
    voxels[blank] = 0 if to in CONTRASTS else min(outside, 0)
    return replace(volume, voxels=voxels, contrast=to, synthetic=True), blank


@lru_cache(maxsize=1)
def _opened(
    model: str, sha256: str, device: str, planes: str, allow_code: bool = False
) -> Translator:
    """A translator that was pickled in another process, opened once in this one.

    Raises:
        BundleError: the bundle is absent, damaged, or was replaced.
        SettingsError: this machine has no such device.
    """
    translator = Translator(load_bundle(model, allow_code=allow_code), device, planes)
    if translator.bundle.hash != sha256:
        raise BundleError(
            "was replaced after the work began", path=translator.bundle.path, remedy="Start again."
        )
    return translator
