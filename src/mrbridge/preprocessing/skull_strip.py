"""Skull stripping: by the template, by HD-BET, or by a mask of the user's.

A mask that cannot be an adult's brain is refused, whatever its source: a network would learn from
an image that lost half of its brain, or kept its scalp, as from any other.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.errors import InputError, SettingsError
from mrbridge.io import read, write
from mrbridge.io.atomic import stem_of
from mrbridge.io.bids_name import parse_name
from mrbridge.preprocessing.foreground import (
    Head,
    Mask,
    black_background,
    foreground_mask,
    has_surroundings,
)
from mrbridge.preprocessing.geometry import to_slices
from mrbridge.preprocessing.resample import grid_difference, resample
from mrbridge.preprocessing.settings import BrainKind, PreprocessSettings
from mrbridge.preprocessing.template import LITRES, brain_by_template, volume_l
from mrbridge.volume import Volume

_EXTENT_MM = 115.0, 200.0
"""The shortest and the longest extent of a brain along any axis. Brains of open-ms-mni measure 118
to 159, the template's 144 to 180; a head of open-ms-raw that is truncated to 114 still has 2.4
litres."""

_ONE_PIECE = 0.95  # the least share of a mask in its largest piece
_OFF_CENTRE_MM = 35.0  # the furthest that, within a slice, a brain's centre is from its head's
_MOST_LABELS = 64  # of a mask; with more, and few neighbours that are equal, it is a scan
_CUT = 0.3  # a face of the field of view that cuts more of the largest section cuts off brain;
_CUT_BELOW = 0.6  # below, where the brain stem leaves, and scans of the upper head end
_STRIPPED = 1.2  # an image with less around its brain than this was skull-stripped before

_HD_BET = "hd-bet"
_CHECK = "Check that it shows a whole brain; leave it out, or give a mask (--brain mask)."


def find_brain(head: Head, kind: BrainKind, mask: Volume | None = None) -> Mask:
    """The brain mask of a scan.

    Args:
        head: a head, or a brain whose surroundings are exactly zero.
        kind: `auto` by the template; `hd-bet` by the program of that name; `mask` takes `mask`.
        mask: for `mask`, on any grid of the same scanner space; everything but 0 is brain. None if
            there is none: then the scan must be a stripped brain.

    Returns:
        A mask of the scan's shape (i, j, k).

    Raises:
        InputError: a 2D image, no brain found, no mask although one is needed, or a mask that
            cannot be a brain: see `implausible`.
        SettingsError: HD-BET is not installed.
    """
    if head.volume.affine is None:
        raise InputError("is a 2D image: its brain cannot be found", remedy="Use --brain none.")
    if kind == "hd-bet":
        inside = _brain_by_hd_bet(head)
    elif kind == "mask":
        inside = brain_of_mask(head, mask)
    else:
        inside = brain_by_template(head)
        if head.stripped is not None and head.stripped.sum() < _STRIPPED * inside.sum():
            inside = head.stripped
    why = implausible(inside, head)
    if why is not None:
        raise InputError(f"its brain mask is implausible: {why}", remedy=_CHECK)
    return inside


def implausible(inside: Mask, head: Head) -> str | None:
    """Why a mask (i, j, k) cannot be an adult's brain, in words; None if it may be."""
    litres = volume_l(inside, head.volume)
    if not LITRES[0] <= litres <= LITRES[1]:
        return f"{litres:.2f} litres, not {LITRES[0]} to {LITRES[1]}"
    labels, count = ndimage.label(inside)
    largest = np.bincount(labels.ravel())[1:].max() / np.count_nonzero(inside)
    if largest < _ONE_PIECE:
        return f"{count} pieces, the largest {largest:.0%} of it"
    brain = to_slices(Volume(inside.astype(np.uint8), head.volume.affine), None)[0] > 0
    assert head.grid.spacing is not None
    # In the slices that show brain only: neck and face would move the centre of the head.
    around = head.foreground & brain.any(axis=(1, 2), keepdims=True)
    if around.any():
        centres = [np.argwhere(part)[:, 1:].mean(axis=0) for part in (brain, around)]
        off = float(np.linalg.norm((centres[0] - centres[1]) * head.grid.spacing[1:]))
        if off > _OFF_CENTRE_MM:
            return f"its centre is {off:.0f} mm from that of the head"
    return _cut_off(brain)


def _cut_off(brain: Mask) -> str | None:
    """Which face of the field of view cuts the brain off: slices, rows, columns run to S, P, L."""
    names = (("bottom", "top"), ("front", "back"), ("right", "left"))
    for axis, pair in enumerate(names):
        areas = brain.sum(axis=tuple(k for k in range(3) if k != axis))
        for name, area in zip(pair, (areas[0], areas[-1]), strict=True):
            if area > (_CUT_BELOW if name == "bottom" else _CUT) * areas.max():
                return f"the {name} of the field of view cuts it off"
    return None


def binary_mask(mask: Volume) -> Volume:
    """A mask of ones and zeros: of a label map every label, of probabilities those from half of
    the largest on, or from 0.5 on if there are larger ones.

    Raises:
        InputError: it is a scan.
    """
    voxels = mask.voxels
    threshold = 0.5 * min(1.0, float(voxels.max()))
    inside = voxels[voxels != 0]
    is_signed = voxels.min() < -threshold  # after cubic interpolation, masks are -0.2 to 1.2
    if is_signed or (voxels.max() > 1.5 and _varies(inside)):
        raise InputError(
            "is not a mask: it has "
            + ("negative values" if is_signed else "the intensities of a scan"),
            remedy="Give a file that is 0 outside and 1 inside.",
        )
    return replace(mask, voxels=(voxels > threshold).astype(np.uint8))


def _varies(inside: NDArray[Any]) -> bool:
    """Whether values are intensities rather than labels: many, few of them like their neighbour."""
    values = np.unique(inside[:: max(1, len(inside) // 100_000)])
    return len(values) > _MOST_LABELS and float(np.mean(inside[1:] == inside[:-1])) < 0.5


def brain_of_mask(head: Head, mask: Volume | None) -> Mask:
    """A brain mask on the grid of a scan, (i, j, k); its own grid is in the same scanner space.

    Raises:
        InputError: there is none and the scan is not stripped, or it is a 2D image or a scan.
    """
    if mask is None:
        if head.stripped is None:
            raise InputError(
                "has no brain mask, and its skull was not removed",
                remedy="Put a …_desc-brain_mask.nii.gz next to it, or name it with --brain-mask.",
            )
        return head.stripped
    if mask.is_2d:
        raise InputError("its brain mask is a 2D image", remedy="Give a NIfTI file.")
    try:
        mask = binary_mask(mask)
    except InputError as error:
        raise InputError(f"its brain mask {error.what}", remedy=error.remedy) from None
    if grid_difference(mask, head.volume) is not None:
        mask = resample(mask, head.volume, interpolation="nearest")
    return np.asarray(mask.voxels > 0)


def read_brain_mask(scan: Path, settings: PreprocessSettings) -> Volume | None:
    """The brain mask of a scan, if masks are asked for; None if there is none."""
    path = mask_path(scan, settings.brain_mask) if settings.brain == "mask" else None
    return None if path is None else read(path)


def mask_path(scan: Path, pattern: str) -> Path | None:
    """The file of a scan's brain mask; None if there is none.

    It is next to the scan or, in a BIDS dataset, at the same place in one of its derivatives.

    Args:
        pattern: the mask's path from the scan's folder; `{stem}` is the scan's name without its
            extension, `{entities}` the same without the contrast at its end.
    """
    stem = stem_of(scan)
    bids = parse_name(scan)
    entities = stem if bids is None else stem.removesuffix(f"_{bids.suffix}")
    name = pattern.format(stem=stem, entities=entities)
    places = [scan.parent]
    for folder in scan.absolute().parents:
        if folder.name.startswith("sub-"):
            below = scan.absolute().parent.relative_to(folder.parent)
            places += [each / below for each in sorted(folder.parent.glob("derivatives/*"))]
            places.append(folder.parent / "derivatives" / below)
    masks = (place / name for place in places)
    return next((mask for mask in masks if mask.is_file() or mask.is_symlink()), None)


def hd_bet_program() -> str:
    """The path of HD-BET; SettingsError if it is not installed."""
    program = shutil.which(_HD_BET)
    if program is None:
        raise SettingsError(
            "the program hd-bet is not installed",
            remedy="Install it (pip install hd-bet, in an environment of its own), or use "
            "--brain auto.",
        )
    return program


def _brain_by_hd_bet(head: Head) -> Mask:
    """By HD-BET 2 (Isensee et al. 2019, doi:10.1002/hbm.24750), run as a program."""
    program = hd_bet_program()
    from mrbridge.hardware import choose_device  # imports torch, which takes a second

    device = ["-device", choose_device("auto").type]
    if device[1] == "cpu":
        device.append("--disable_tta")  # as its help recommends
    with tempfile.TemporaryDirectory(prefix="mrbridge-") as folder:
        scan, out = Path(folder, "scan.nii.gz"), Path(folder, "brain.nii.gz")
        write(Volume(head.volume.voxels.astype(np.float32), head.volume.affine), scan)
        options = [*device, "--save_bet_mask", "--no_bet_image"]
        ran = subprocess.run(
            [program, "-i", str(scan), "-o", str(out), *options],
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        mask = Path(folder, "brain_bet.nii.gz")
        if ran.returncode or not mask.is_file():
            lines = (ran.stderr or ran.stdout).strip().splitlines()
            raise InputError(
                f"hd-bet wrote no mask ({lines[-1] if lines else f'exit code {ran.returncode}'})",
                remedy="Check that hd-bet -h works and is version 2, or use --brain auto.",
            )
        return brain_of_mask(head, read(mask))


def skull_stripped(scan: Volume) -> bool | None:
    """Whether the skull was removed; None if the image does not show it.

    Noise in the air, or more volume than any brain has, show that it was not. Zero all around, the
    volume of a brain and the extent of a brain along each axis show that it was: a head of that
    extent is larger, and a part of a head with that volume is flatter.
    """
    slices, grid = to_slices(black_background(scan, scan.contrast), None)
    shown = foreground_mask(slices)
    spacing = grid.spacing or (0.0, 0.0, 0.0)
    litres = np.count_nonzero(shown) * math.prod(spacing) / 1e6
    if litres > LITRES[1] or has_surroundings(slices, shown):
        return False
    extent = [
        np.ptp(np.flatnonzero(shown.any(axis=others))) * step if shown.any() else 0.0
        for others, step in zip(((1, 2), (0, 2), (0, 1)), spacing, strict=True)
    ]
    is_a_brain = litres > LITRES[0] and min(extent) > _EXTENT_MM[0] and max(extent) < _EXTENT_MM[1]
    return True if is_a_brain else None
