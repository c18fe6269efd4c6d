"""Skull stripping: by the template, by HD-BET, or by a mask of the user's.

Whatever found it, a mask that cannot be an adult's brain is refused: an image that lost half of its
brain, or kept its scalp, would be learned from like any other.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.errors import InputError, SettingsError
from mrbridge.io import read, write
from mrbridge.io.bids_name import parse_name
from mrbridge.io.safety import suffix_of
from mrbridge.preparation.brain_template import brain_by_template
from mrbridge.preparation.geometry import from_slices, to_slices
from mrbridge.preparation.intensity import blank_outside, foreground_mask
from mrbridge.preparation.resample import grid_difference, resample
from mrbridge.preparation.settings import StandardSettings
from mrbridge.volume import Volume

BrainKind = Literal["none", "auto", "hd-bet", "mask"]

LITRES = (0.7, 2.2)
"""An adult's brain, ventricles and sulci included, lies between these."""

_ONE_PIECE = 0.95  # the share of a mask that its largest piece has at least
_OFF_CENTRE_MM = 35.0  # how far, within a slice, a brain's centre may lie from its head's
_CUT = 0.3  # a face of the field of view that cuts more of the largest section cuts off brain;
_CUT_BELOW = 0.6  # below, where the brain stem leaves, and scans of the upper head end
_STRIPPED = 1.2  # an image with less around its brain than this has lost its skull before

_HD_BET = "hd-bet"
_SHOWS = "See whether the scan shows a whole brain; leave it out, or give a mask (--brain mask)."


def find_brain(volume: Volume, kind: BrainKind, mask: Volume | None = None) -> NDArray[np.bool_]:
    """Where the brain is.

    Args:
        volume: a head, or a brain whose surroundings are exactly zero.
        kind: `auto` by the template; `hd-bet` by the program of that name; `mask` takes `mask`.
        mask: for `mask`, on any grid of the same scanner space; what is not 0 is brain. None where
            there is none: then the volume must be a stripped brain.

    Returns:
        A mask of the volume's shape (i, j, k).

    Raises:
        InputError: a picture, no brain found, no mask where one is needed, or one that cannot be a
            brain: see `implausible`.
        SettingsError: HD-BET is not installed.
    """
    if volume.affine is None:
        raise InputError(
            "is a picture: where its brain is cannot be told", remedy="Say --brain none."
        )
    if kind == "hd-bet":
        inside = _brain_by_hd_bet(volume)
    elif kind == "mask":
        inside = _brain_of_mask(volume, mask)
    else:
        inside = brain_by_template(volume)
        stripped = _not_blank(volume)
        if stripped is not None and stripped.sum() < _STRIPPED * inside.sum():
            inside = stripped
    why = implausible(inside, volume)
    if why is not None:
        raise InputError(f"its brain mask is implausible: {why}", remedy=_SHOWS)
    return inside


def litres(inside: NDArray[np.bool_], volume: Volume) -> float:
    """The volume of a mask (i, j, k) on the grid of a scan."""
    return float(np.count_nonzero(inside)) * math.prod(volume.spacing or (0.0,)) / 1e6


def implausible(inside: NDArray[np.bool_], volume: Volume) -> str | None:
    """Why a mask cannot be an adult's brain, in words; None where it can.

    Args:
        inside: the mask, (i, j, k).
        volume: the scan that it belongs to.
    """
    amount = litres(inside, volume)
    if not LITRES[0] <= amount <= LITRES[1]:
        return f"{amount:.2f} litres, not {LITRES[0]} to {LITRES[1]}"
    labels, count = ndimage.label(inside)
    largest = np.bincount(labels.ravel())[1:].max() / np.count_nonzero(inside)
    if largest < _ONE_PIECE:
        return f"{count} pieces, the largest {largest:.0%} of it"
    slices, grid = to_slices(volume, None)
    brain = to_slices(Volume(inside.astype(np.uint8), volume.affine), None)[0] > 0
    assert grid.spacing is not None
    rows = [np.nonzero(mask)[1:] for mask in (brain, foreground_mask(slices) & _beside(brain))]
    if rows[1][0].size:
        centres = [np.array([part.mean() for part in found]) for found in rows]
        off = float(np.linalg.norm((centres[0] - centres[1]) * grid.spacing[1:]))
        if off > _OFF_CENTRE_MM:
            return f"its centre lies {off:.0f} mm from the head's"
    return _cut_off(brain)


def _beside(brain: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The slices in which there is brain, whole; shape (slices, 1, 1)."""
    return np.asarray(brain.any(axis=(1, 2), keepdims=True))


def _cut_off(brain: NDArray[np.bool_]) -> str | None:
    """Which face of the field of view cuts the brain off: slices, rows, columns run to S, P, L."""
    names = (("bottom", "top"), ("front", "back"), ("right", "left"))
    for axis, pair in enumerate(names):
        areas = brain.sum(axis=tuple(k for k in range(3) if k != axis))
        for name, area in zip(pair, (areas[0], areas[-1]), strict=True):
            if area > (_CUT_BELOW if name == "bottom" else _CUT) * areas.max():
                return f"the {name} of the field of view cuts it off"
    return None


def _not_blank(volume: Volume) -> NDArray[np.bool_] | None:
    """What is not exactly zero around, of a scan that was cut out; None of any other."""
    slices, grid = to_slices(volume, None)
    outside = blank_outside(slices, foreground_mask(slices))
    if outside is None:
        return None
    return np.asarray(from_slices((~outside).astype(np.float32), grid) > 0.5)


def _brain_of_mask(volume: Volume, mask: Volume | None) -> NDArray[np.bool_]:
    if mask is None:
        stripped = _not_blank(volume)
        if stripped is None:
            raise InputError(
                "has no brain mask, and its skull was not removed",
                remedy="Put a …_desc-brain_mask.nii.gz beside it, or say where with --brain-mask.",
            )
        return stripped
    if mask.is_picture:
        raise InputError("its brain mask is a picture", remedy="Give a NIfTI file.")
    mask = Volume((mask.voxels != 0).astype(np.uint8), mask.affine)
    if grid_difference(mask, volume) is not None:
        mask = resample(mask, volume, interpolation="nearest")
    return np.asarray(mask.voxels > 0)


def mask_beside(scan: Path, standard: StandardSettings) -> Volume | None:
    """The brain mask that belongs to a scan, where brains are to be masked; None where there is
    none.

    Raises:
        InputError: it cannot be read.
    """
    found = mask_path(scan, standard.brain_mask) if standard.brain == "mask" else None
    return None if found is None else read(found)


def mask_path(scan: Path, pattern: str) -> Path | None:
    """The brain mask that belongs to a scan; None where there is none.

    It lies beside the scan or, of a BIDS data set, at the same place in one of its derivatives.

    Args:
        scan: a file.
        pattern: the mask's path from the scan's folder; `{stem}` is the scan's name without its
            extension, `{entities}` the same without the contrast at its end.
    """
    stem = scan.name[: -len(suffix_of(scan))]
    bids = parse_name(scan)
    entities = stem if bids is None else stem.removesuffix(f"_{bids.suffix}")
    name = pattern.format(stem=stem, entities=entities)
    places = [scan.parent]
    for folder in scan.absolute().parents:
        if folder.name.startswith("sub-"):
            below = scan.absolute().parent.relative_to(folder.parent)
            places += [each / below for each in sorted(folder.parent.glob("derivatives/*"))]
            places.append(folder.parent / "derivatives" / below)
    masks = [place / name for place in places]
    found = [mask for mask in masks if mask.is_file() or mask.is_symlink()]
    return found[0] if found else None


def hd_bet_program() -> str:
    """Where HD-BET is.

    Raises:
        SettingsError: it is not installed.
    """
    program = shutil.which(_HD_BET)
    if program is None:
        raise SettingsError(
            "the program hd-bet is not installed",
            remedy="Install it (pip install hd-bet, in an environment of its own), or say "
            "--brain auto.",
        )
    return program


def _brain_by_hd_bet(volume: Volume) -> NDArray[np.bool_]:
    """As HD-BET 2 finds it (Isensee et al. 2019, doi:10.1002/hbm.24750), run as a program."""
    program = hd_bet_program()
    from mrbridge.hardware import choose_device  # torch: a second, which no other way needs

    device = ["-device", choose_device("auto").type]
    if device[1] == "cpu":
        device.append("--disable_tta")  # as its help recommends
    with tempfile.TemporaryDirectory(prefix="mrbridge-") as folder:
        scan, out = Path(folder, "scan.nii.gz"), Path(folder, "brain.nii.gz")
        plain = Volume(volume.voxels.astype(np.float32), volume.affine)
        write(plain, scan)
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
            said = (ran.stderr or ran.stdout).strip().splitlines()
            raise InputError(
                f"hd-bet gave no mask ({said[-1] if said else f'exit code {ran.returncode}'})",
                remedy="See whether hd-bet -h works and is of version 2, or say --brain auto.",
            )
        return _brain_of_mask(volume, read(mask))
