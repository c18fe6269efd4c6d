"""Scans that lie otherwise than the others of their contrast, told by their images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.inspection.facts import Facts, by_contrast
from mrbridge.inspection.finding import Finding, Group

LEAST_SCANS = 5
"""Scans of a kind from which on one of them can be an outlier."""

_Thumbnail = NDArray[np.uint8]
_View = Callable[[_Thumbnail], _Thumbnail]

_COMPARED = 128  # scans, evenly spread, with which each is compared
_NEAREST = 3  # of these, the most alike, that tell how well a scan fits
_BACKGROUND = 25  # and below, of 255
_AT_ONCE = 64
_PICTURE_GAIN, _VOLUME_GAIN = 0.01, 0.05
"""How much more alike, in correlation, most scans must be as they are than turned. Axial slices of
heads are nearly alike upside down; sagittal ones are not."""

_UPSIDE_DOWN: tuple[str, _View] = ("upside down", lambda image: image[::-1])
_PICTURE_VIEWS: tuple[tuple[str, _View], ...] = (
    _UPSIDE_DOWN,
    ("mirrored", lambda image: image[:, ::-1]),
    ("turned by 90°", lambda image: np.rot90(image, 1)),
    ("turned by 90°", lambda image: np.rot90(image, -1)),
)
_VOLUME_VIEWS: tuple[tuple[str, _View], ...] = (
    _UPSIDE_DOWN,
    ("front to back", lambda image: image[:, ::-1]),
)


def find_turned(facts: Sequence[Facts]) -> list[Finding]:
    """Scans that fit the others of their contrast better when they are turned."""
    groups: list[Group] = []
    for scans in by_contrast(facts).values():
        pictures = [one for one in scans if one.is_picture]
        volumes = [one for one in scans if one.side_view is not None]
        sides = [v.side_view for v in volumes if v.side_view is not None]
        images = [one.thumbnail for one in pictures]
        groups += _turned(pictures, images, _PICTURE_VIEWS, _PICTURE_GAIN)
        groups += _turned(volumes, sides, _VOLUME_VIEWS, _VOLUME_GAIN)
    if not groups:
        return []
    return [
        Finding(
            "turned against the majority",
            "warning",
            "These fit the others of their contrast better when they are turned. Left and right "
            "cannot be told by the image: heads are too nearly symmetric.",
            "Look at them. Of a volume the header is wrong; of a picture the export was another.",
            tuple(groups),
        )
    ]


def _turned(
    scans: list[Facts],
    images: list[_Thumbnail],
    views: tuple[tuple[str, _View], ...],
    least: float,
) -> list[Group]:
    if len(scans) < LEAST_SCANS:
        return []
    count = min(_COMPARED, len(images))
    others = [int((k + 0.5) * len(images) / count) for k in range(count)]
    known = _vectors([images[n] for n in others], lambda image: image)
    as_it_is = _fit(images, known, others, lambda image: image)
    found: dict[int, tuple[float, str]] = {}
    for word, view in views:
        gains = as_it_is - _fit(images, known, others, view)
        # Where most are no better as they are than turned, nobody can tell.
        middle = float(np.median(gains))
        if middle < least:
            continue
        for number in np.flatnonzero(gains < -max(least, middle / 2)):
            gain = float(-gains[number])
            found[int(number)] = max(found.get(int(number), (0.0, "")), (gain, word))
    return [Group((scans[n].name,), word) for n, (_, word) in sorted(found.items())]


def _fit(
    images: list[_Thumbnail], known: NDArray[np.float32], others: list[int], view: _View
) -> NDArray[np.float32]:
    """How like each image, so turned, is to the nearest of others: a mean of correlations.

    The nearest ones, since slices from top to bottom of a head are not alike, whichever way they
    lie.
    """
    fits = []
    for start in range(0, len(images), _AT_ONCE):
        part = images[start : start + _AT_ONCE]
        alike = _vectors(part, view) @ known.T
        own = np.array(others) == np.arange(start, start + len(part))[:, None]
        alike[own] = -1
        fits.append(np.sort(alike, axis=1)[:, -_NEAREST:].mean(axis=1))
    return np.concatenate(fits)


def _vectors(images: list[_Thumbnail], view: _View) -> NDArray[np.float32]:
    """Each as a vector of length 1 and mean 0, its head in the middle wherever it lay."""
    values = np.stack([_centred(view(image)).ravel() for image in images]).astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)


def _centred(image: _Thumbnail) -> _Thumbnail:
    head = image > _BACKGROUND
    if not head.any():
        return image
    middle = ndimage.center_of_mass(head)
    steps = [round((size - 1) / 2 - at) for size, at in zip(image.shape, middle, strict=True)]
    return np.roll(image, steps, (0, 1))
