"""Translate a NIfTI scan with an exported network: no PyTorch, no mrbridge.

    python translate.py T1w_to_T2w.onnx T1w.nii.gz T2w.nii.gz

It needs numpy, scipy, nibabel and onnxruntime. The preprocessing is a short version of mrbridge's:
the same orientation, spacing and intensity curve, but no crop to the head, a simpler mask of the
head, and axial slices only. Results are close to those of `mrbridge translate --planes axial`, not
equal. They are synthetic: for research, not for diagnosis.
"""

from __future__ import annotations

import json
import sys

import nibabel as nib
import numpy as np
import onnxruntime
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from scipy import ndimage

KNEE = 0.6  # what the knee of the intensity curve becomes
LPS = axcodes2ornt(("L", "P", "S"))  # columns, rows, slices of the network


def curve(low: float, high: float, knee: float | None) -> tuple[list[float], list[float]]:
    """The points of the intensity curve: intensities, and what they become."""
    return ([low, high], [-1, 1]) if knee is None else ([low, knee, high], [-1, KNEE, 1])


def measured_curve(voxels: np.ndarray, settings: dict) -> tuple[list[float], list[float]]:
    """The intensity curve of a scan (method `percentile`)."""
    low = float(np.percentile(voxels, settings["lower_percentile"]))
    head = voxels[voxels > low + 0.1 * (np.percentile(voxels, 99) - low)]
    high = float(np.percentile(head, settings["upper_percentile"]))
    low = 0.0 if abs(low) <= 0.005 * high else low
    knee = float(np.percentile(head, settings["knee_percentile"]))
    bend = low + (KNEE + 1) / 2 * (high - low)
    return curve(low, high, knee if low < knee < bend else None)


def padded(size: int, multiple: int, least: int) -> tuple[int, int]:
    """How much to pad before and after, so that the network takes the size."""
    missing = -(-max(size, least) // multiple) * multiple - size
    return missing // 2, missing - missing // 2


def translate(network: str, source: str, result: str) -> None:
    """Translate one scan.

    Args:
        network: an .onnx file of `mrbridge export`.
        source: the scan.
        result: where to write the synthetic scan, on the grid of the source.
    """
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    multiple, least = int(metadata["multiple"]), int(metadata["least_size"])

    image = nib.load(source)
    turned = ornt_transform(io_orientation(image.affine), LPS)
    voxels = apply_orientation(np.asarray(image.dataobj, np.float32), turned)
    affine = image.affine @ inv_ornt_aff(turned, image.shape)
    spacing = np.linalg.norm(affine[:3, :2], axis=0)  # in mm, of columns and rows
    wanted = metadata["spacing_mm"]
    zoom = np.ones(2) if wanted == "as scanned" else spacing / float(wanted)
    slices = ndimage.zoom(voxels, (*zoom, 1), order=1).transpose(2, 1, 0)  # (slices, rows, columns)

    points, levels = measured_curve(slices, json.loads(metadata["intensities"]))
    normalised = np.interp(slices, points, levels).astype(np.float32)
    margins = [padded(size, multiple, least) for size in slices.shape[1:]]
    padded_slices = np.pad(normalised, [(0, 0), *margins], constant_values=-1)
    synthetic = np.stack(
        [session.run(None, {"image": one[None, None]})[0][0, 0] for one in padded_slices]
    )
    rows, columns = (slice(m[0], m[0] + n) for m, n in zip(margins, slices.shape[1:], strict=True))
    synthetic = synthetic[:, rows, columns]

    typical = json.loads(metadata["typical"])
    points, levels = curve(typical["low"], typical["high"], typical["knee"])
    values = np.interp(synthetic, levels, points).transpose(2, 1, 0)  # (columns, rows, slices)
    back = [after / before for after, before in zip(voxels.shape, values.shape, strict=True)]
    values = ndimage.zoom(values, back, order=1)
    values[voxels == 0] = 0
    values = apply_orientation(values, ornt_transform(LPS, io_orientation(image.affine)))
    made = nib.Nifti1Image(values.astype(np.float32), image.affine)
    made.header["descrip"] = b"synthetic, for research, not for diagnosis"
    nib.save(made, result)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: translate.py NETWORK.onnx SCAN.nii.gz RESULT.nii.gz")
    translate(*sys.argv[1:])
