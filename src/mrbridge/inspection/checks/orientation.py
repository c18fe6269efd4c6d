"""Scans whose orientation differs from the others of their contrast, by image and by header."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.inspection.checks import Finding, Group, finding
from mrbridge.inspection.facts import LEAST_SCANS, Facts, by_contrast

_Thumbnail = NDArray[np.uint8]
_View = Callable[[_Thumbnail], _Thumbnail]

_COMPARED = 128  # scans, evenly spaced, with which each scan is compared
_NEAREST = 3  # most similar of these, whose mean correlation says how well a scan matches
_BACKGROUND = 25  # and below, of 255
_BATCH = 64
_GAIN_2D, _GAIN_3D = 0.01, 0.05
"""By how much most scans must correlate better as they are than flipped or rotated. Axial slices of
heads are nearly the same upside down; sagittal ones are not."""
_RARE = 0.2  # a larger share of scans with one handedness is a convention, not a mistake

_UPSIDE_DOWN: tuple[str, _View] = ("upside down", lambda image: image[::-1])
_VIEWS_2D: tuple[tuple[str, _View], ...] = (
    _UPSIDE_DOWN,
    ("mirrored", lambda image: image[:, ::-1]),
    ("rotated by 90°", lambda image: np.rot90(image, 1)),
    ("rotated by 90°", lambda image: np.rot90(image, -1)),
)
_VIEWS_3D: tuple[tuple[str, _View], ...] = (
    _UPSIDE_DOWN,
    ("front to back", lambda image: image[:, ::-1]),
)


def check_orientation(facts: Sequence[Facts]) -> list[Finding]:
    """Flipped or rotated images, and headers of the opposite handedness."""
    return [*find_misoriented(facts), *_find_opposite_handedness(facts)]


def find_misoriented(facts: Sequence[Facts]) -> list[Finding]:
    """Scans that match the others of their contrast better after a flip or rotation."""
    groups: list[Group] = []
    for scans in by_contrast(facts).values():
        flat = [one for one in scans if one.is_2d]
        groups += _misoriented(flat, [one.thumbnail for one in flat], _VIEWS_2D, _GAIN_2D)
        views = [(one, one.side_view) for one in scans if one.side_view is not None]
        groups += _misoriented([v[0] for v in views], [v[1] for v in views], _VIEWS_3D, _GAIN_3D)
    return [finding("orientation", groups)] if groups else []


def _misoriented(
    scans: list[Facts],
    images: list[_Thumbnail],
    views: tuple[tuple[str, _View], ...],
    least_gain: float,
) -> list[Group]:
    if len(scans) < LEAST_SCANS:
        return []
    count = min(_COMPARED, len(images))
    others = [int((k + 0.5) * len(images) / count) for k in range(count)]
    known = _vectors([images[n] for n in others], lambda image: image)
    unchanged = _match(images, known, others, lambda image: image)
    best: dict[int, tuple[float, str]] = {}
    for name, view in views:
        gains = unchanged - _match(images, known, others, view)
        # If most do not match better as they are, the images cannot tell.
        middle = float(np.median(gains))
        if middle < least_gain:
            continue
        for number in np.flatnonzero(gains < -max(least_gain, middle / 2)):
            gain = float(-gains[number])
            best[int(number)] = max(best.get(int(number), (0.0, "")), (gain, name))
    return [Group((scans[n].name,), name) for n, (_, name) in sorted(best.items())]


def _match(
    images: list[_Thumbnail], known: NDArray[np.float32], others: list[int], view: _View
) -> NDArray[np.float32]:
    """Mean correlation of each image, in this view, with the most similar of the others.

    Only with the most similar: slices from the top and the bottom of a head differ in any view.
    """
    matches = []
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        correlations = _vectors(batch, view) @ known.T  # (images of the batch, others)
        itself = np.array(others) == np.arange(start, start + len(batch))[:, None]
        correlations[itself] = -1
        matches.append(np.sort(correlations, axis=1)[:, -_NEAREST:].mean(axis=1))
    return np.concatenate(matches)


def _vectors(images: list[_Thumbnail], view: _View) -> NDArray[np.float32]:
    """Each image, its head centred, as a vector of mean 0 and length 1."""
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


def _find_opposite_handedness(facts: Sequence[Facts]) -> list[Finding]:
    """Volumes whose axes have the opposite handedness to most others, by their headers only."""
    handed = [(one, _is_right_handed(one.orientation)) for one in facts if one.orientation]
    counts = Counter(right for _, right in handed)
    if len(counts) < 2 or len(handed) < LEAST_SCANS:
        return []
    rare, count = min(counts.items(), key=lambda item: item[1])
    if count > _RARE * len(handed):
        return []
    groups = [Group((one.name,), str(one.orientation)) for one, right in handed if right == rare]
    return [finding("handedness", groups)]


def _is_right_handed(orientation: str) -> bool:
    """Whether axes such as LAS are right-handed, as RAS is."""
    axes = [next(k for k, pair in enumerate(("RL", "AP", "SI")) if c in pair) for c in orientation]
    is_odd = sum(axes[i] > axes[j] for i in range(3) for j in range(i + 1, 3)) % 2 == 1
    return is_odd != (sum(letter in "LPI" for letter in orientation) % 2 == 0)
