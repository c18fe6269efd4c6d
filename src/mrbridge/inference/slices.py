"""The generator of one direction at work on slices: in batches, in one plane or in three."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrbridge.hardware import fast_bfloat16, in_threads
from mrbridge.inference.planes import LEAST_MARGIN, between, in_three_planes
from mrbridge.kernels import weight_cache
from mrbridge.manifest import Direction
from mrbridge.networks.build import Generator
from mrbridge.networks.unet import ScaleHead, UNet
from mrbridge.preprocessing.foreground import Mask, Stack
from mrbridge.preprocessing.geometry import fit_size, size_multiple
from mrbridge.preprocessing.preprocess import Preprocessed
from mrbridge.progress import track

EMPTY = 0.002
"""A slice with a smaller share of foreground is all background: instance norm would amplify its
noise into an image."""

FAINT = 0.02
"""In a slice with a smaller share of foreground, instance norm amplifies the little there is, and
with it the rounding to bfloat16: by up to 3 % of the range, measured, instead of less than 1 %.
Such slices are computed in float32."""

_BATCH_PIXELS = {"cpu": 4 * 256 * 256, "cuda": 32 * 256 * 256}
"""Larger batches leave the caches of a CPU; a GPU needs them to be busy."""

_MOST_THREADS = 8
"""The maximum number of batches that a CPU computes at the same time; each takes about 60 MB."""


@dataclass(frozen=True)
class SliceTranslator:
    """Computes the slices of one direction. Stacks have the shape (slices, rows, columns).

    Attributes:
        direction: the channels of the scans and of the result.
        least_size: rows and columns to which smaller axial slices are padded.
        multiple: rows and columns are padded to multiples of it.
        head: the generator's scale head; None, unless an uncertainty map is wanted.
    """

    network: Generator
    direction: Direction
    device: torch.device
    least_size: int
    multiple: int
    head: ScaleHead | None = None

    def in_planes(
        self, stacks: list[Stack], preprocessed: Preprocessed, planes: tuple[str, ...], spread: bool
    ) -> tuple[Stack, ...]:
        """Translate the slices of a volume: the mean over the planes if there are several.

        Args:
            stacks: axial slices of the scans in the direction's `given`, range [-1, 1].
            preprocessed: the volume.
            planes: those in which it is sliced.
            spread: whether the planes' spread is wanted.

        Returns:
            The image, range [-1, 1], and with `spread` the scale of its error (0 without a scale
            head) and the standard deviation over the planes (0 with one plane).
        """
        around = self.least_size - stacks[0].shape[1]  # rows around the head in slices of training
        is_of_pair = self.direction.settings is None  # others lose lesions if slices are skipped
        has_three_planes = planes != ("axial",)

        def make(
            parts: list[Stack], foreground: Mask, close: bool = False
        ) -> tuple[tuple[Stack, ...], Mask]:
            least = (parts[0].shape[1] + around, self.least_size)
            made = self(parts, foreground, least, close and is_of_pair, tight=has_three_planes)
            squares = (made[0] ** 2,) if spread else ()
            return (*made, *squares), shares_of(foreground) >= EMPTY

        foreground = preprocessed.foreground
        if not has_three_planes:
            image, *others = make(stacks, foreground)[0]
        else:
            image, *others = in_three_planes(stacks, foreground, preprocessed.grid, make)
        if not spread:
            return (image,)
        *scales, squares = others
        # Interpolation between planes may leave small negative scales and variances.
        scale = np.maximum(scales[0], 0) if scales else np.zeros_like(image)
        return image, scale, np.sqrt(np.maximum(squares - image**2, 0))

    def __call__(
        self,
        stacks: list[Stack],
        foreground: Mask | None,
        least: tuple[int, int] | None,
        every_second: bool = False,
        tight: bool = False,
    ) -> tuple[Stack, ...]:
        """Translate slices.

        Args:
            stacks: of the scans in the direction's `given`, range [-1, 1].
            foreground: slices with almost none become background (-1), those with little are
                computed in float32; None computes all.
            least: rows and columns to which smaller slices are padded; None: `least_size`.
            every_second: compute every second slice; `between` makes the others from these.
            tight: leave out a part of the margin around the foreground if that saves padding; it
                becomes background.

        Returns:
            The same shape and range, float32; with a scale head also the scale of the error.
        """
        shape = stacks[0].shape
        box, padded = self._box(
            shape, foreground if tight else None, least or 2 * (self.least_size,)
        )
        stacks = [stack[box] for stack in stacks]
        rows, columns = padded
        wanted = np.arange(shape[0])
        faint = np.zeros(shape[0], bool)
        if foreground is not None:
            shares = shares_of(foreground)
            wanted, faint = np.flatnonzero(shares >= EMPTY), shares < FAINT
        skipped = wanted[1:-1][_inner(wanted)] if every_second else wanted[:0]
        wanted = np.setdiff1d(wanted, skipped)
        made = [np.full(shape, -1, np.float32)]
        if self.head is not None:
            made.append(np.zeros(shape, np.float32))
        results = [part[box] for part in made]
        size = max(1, _BATCH_PIXELS[self.device.type] // (rows * columns))
        is_one_batch = len(wanted) <= size
        for in_float32 in (False, True):
            chosen = wanted[faint[wanted] == in_float32]
            batches = [chosen[start : start + size] for start in range(0, len(chosen), size)]

            work = partial(self._work, stacks, results, padded, in_float32)
            if is_one_batch or self.device.type != "cpu":
                calls = work(batches)
            else:
                calls = in_threads(work, batches, _MOST_THREADS)
            for _ in track(calls, "slices", len(batches)):
                pass
        for _ in in_threads(partial(_between, stacks[0], results), skipped, _MOST_THREADS):
            pass
        return tuple(made)

    def _box(
        self, shape: tuple[int, ...], foreground: Mask | None, least: tuple[int, int]
    ) -> tuple[tuple[slice, ...], tuple[int, int]]:
        """What of the slices is computed, and to how many rows and columns that is padded.

        It is all of them, unless the foreground with `LEAST_MARGIN` needs less padding. A head that
        the field of view cuts off keeps its whole margin in that direction.
        """
        box, padded = [slice(None)], []
        for axis, smallest in ((1, least[0]), (2, least[1])):
            first, last = 0, shape[axis]
            size = size_multiple(max(last, smallest), self.multiple)
            if foreground is not None and foreground.any():
                inside = np.flatnonzero(foreground.any(axis=(0, 3 - axis)))
                low, high = inside[0] - LEAST_MARGIN, inside[-1] + 1 + LEAST_MARGIN
                low, high = max(low, 0), min(high, last)
                smaller = size_multiple(max(high - low, smallest), self.multiple)
                is_whole = inside[0] > 0 and inside[-1] < last - 1
                if is_whole and smaller < size:
                    first, last, size = low, high, smaller
            box.append(slice(first, last))
            padded.append(size)
        return tuple(box), (padded[0], padded[1])

    def _work(
        self,
        stacks: list[Stack],
        made: list[Stack],
        padded: tuple[int, int],
        in_float32: bool,
        batches: Iterable[NDArray[np.int64]],
    ) -> Iterator[None]:
        """Compute batches of slices, padded to this size, into `made`; yields after each."""
        with self._precision(in_float32), weight_cache():  # of all batches
            for batch in batches:
                fitted = [fit_size(stack[batch], *padded) for stack in stacks]
                for stack, result in zip(made, self.computed(fitted, in_float32), strict=True):
                    stack[batch] = fit_size(result, *stack.shape[1:])
                yield

    def computed(self, stacks: list[Stack], in_float32: bool) -> list[Stack]:
        """Compute one batch, in bfloat16 if the device is fast with it and it need not be in
        float32. Stacks and results are as of a call; rows and columns are multiples of what the
        network needs."""
        count, rows, columns = stacks[0].shape
        with torch.inference_mode(), self._precision(in_float32):
            images = torch.zeros(count, self.direction.inputs, rows, columns)
            for contrast, stack in zip(self.direction.given, stacks, strict=True):
                part = torch.from_numpy(np.asarray(stack, np.float32))
                images[:, self.direction.channel(contrast)] = part
            images = images.to(self.device)
            if self.head is None or not isinstance(self.network, UNet):
                made: tuple[Tensor, ...] = (self.network(images),)
            else:
                synthetic, features = self.network.with_features(images)
                made = synthetic, self.head(features, images, synthetic).exp()
            return [part[:, self.direction.output].float().cpu().numpy() for part in made]

    def _precision(self, in_float32: bool) -> torch.autocast:
        is_bfloat16 = fast_bfloat16(self.device) and not in_float32
        return torch.autocast(self.device.type, torch.bfloat16, enabled=is_bfloat16)


def _between(given: Stack, made: list[Stack], skipped: Iterable[int]) -> Iterator[None]:
    """Complete slices that were not computed from their neighbours; yields after each."""
    image, *scales = made
    for index in skipped:
        first, last = index - 1, index + 1
        image[index] = between(given[first : last + 1], image[first], image[last])
        for scale in scales:
            scale[index] = (scale[first] + scale[last]) / 2
        yield


def _inner(wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which slices but the first and last are odd and between two others, (slices - 2,)."""
    return (wanted[1:-1] % 2 == 1) & (wanted[2:] - wanted[:-2] == 2)


def shares_of(foreground: Mask) -> NDArray[np.float64]:
    """The share of foreground in each slice, shape (slices,)."""
    shares: NDArray[np.float64] = foreground.mean(axis=(1, 2))
    return shares
