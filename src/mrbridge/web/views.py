"""Volumes for the page: NIfTI files that only a viewer reads, of 2D images too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.processing import resample_from_to

from mrbridge import metrics
from mrbridge.errors import InputError
from mrbridge.volume import Volume

_LEAST_VOXELS = 100  # of both scans, for a fit
_SAME_MM = 1e-3  # and per voxel: two affines that differ by less are the same


def as_image(volume: Volume, *, rounded: bool = False) -> nib.Nifti1Image:
    """A volume as NIfTI.

    A 2D image is laid on its back with square pixels of 1 mm, so that viewers show it upright.

    Args:
        volume: the scan.
        rounded: store 65,536 levels of intensity (int16 with a scale) instead of all.
    """
    voxels, affine = np.asarray(volume.voxels), volume.affine
    if affine is None:
        voxels, affine = voxels[::-1].transpose(1, 0, 2), np.eye(4)
    if voxels.dtype.kind == "f" or voxels.dtype not in (np.uint8, np.int16):
        voxels = voxels.astype(np.float32)
    slope = 1.0
    if rounded and voxels.dtype == np.float32:
        slope = float(np.abs(voxels).max()) / 32767 or 1.0
        voxels = np.rint(voxels / slope).astype(np.int16)
    image = nib.Nifti1Image(voxels, affine, dtype=voxels.dtype)
    if volume.synthetic:
        image.header["descrip"] = b"synthetic, mrbridge, research only, not for diagnosis"
    image.header.set_slope_inter(slope, 0.0)
    return image


def write_view(volume: Volume, path: Path) -> None:
    """Write a volume for the page: neither compressed nor rounded."""
    path.parent.mkdir(exist_ok=True)
    nib.save(as_image(volume), path)


def on_grid_of(scan: Volume, other: Volume) -> Volume:
    """A scan on the grid of another one, by their affines, with linear interpolation.

    Raises:
        InputError: one is a 2D image and the other is not, or their sizes differ.
    """
    if scan.affine is None or other.affine is None:
        if scan.affine is not other.affine or scan.voxels.shape != other.voxels.shape:
            raise InputError(
                "the true scan is not an image of the same size",
                remedy="Choose the true scan of the same slice.",
            )
        return scan
    if scan.voxels.shape == other.voxels.shape and np.allclose(
        scan.affine, other.affine, atol=1e-3
    ):
        return scan
    image = nib.Nifti1Image(np.asarray(scan.voxels, np.float32), scan.affine)
    moved = resample_from_to(image, (other.voxels.shape, other.affine), order=1)
    voxels = np.asarray(moved.dataobj, np.float32)
    return replace(scan, voxels=voxels, affine=other.affine, header=None)


def difference(synthetic: Volume, truth: Volume) -> Volume:
    """The synthetic minus the true scan, after a least-squares fit of scale and offset.

    The fit takes the voxels where neither is zero. Outside them the difference is zero.
    """
    made, real = (np.asarray(one.voxels, np.float32) for one in (synthetic, truth))
    inside = (made != 0) & (real != 0)
    apart = np.zeros(made.shape, np.float32)
    if inside.sum() >= _LEAST_VOXELS:
        apart[inside] = (metrics.fitted(real, made, inside) - real)[inside]
    return replace(synthetic, voxels=apart, synthetic=True, header=None)
