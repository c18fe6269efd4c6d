"""Translates a NIfTI scan with an ONNX file of `mrbridge export`, without mrbridge and PyTorch.

    python translate.py T1w_to_T2w.onnx T1w.nii.gz T2w.nii.gz

It needs numpy, nibabel and onnxruntime. It does what `mrbridge translate --planes axial` does for
models with the default preprocessing; the file's metadata say what the network expects. The outline
of the head and the resampling are simpler, so results are not identical: see the README.
Synthetic images are for research, not for diagnosis.
"""  # fmt: skip

import json
import math
import sys

import nibabel as nib
import numpy as np
import onnxruntime

KNEE = 0.6  # the level to which the knee of the intensity curve is mapped
FLOOR = -0.8  # the level of the darkest tissue where the outside was set to zero
BATCH = 4  # slices


def main(model, source, out):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    expects = session.get_modelmeta().custom_metadata_map
    check(expects)
    image = nib.load(source)
    if image.ndim != 3:
        sys.exit(f"{source}: has {image.ndim} dimensions instead of 3")

    # Axial slices: from inferior to superior, rows to posterior, columns to the patient's left.
    orientation = nib.orientations.io_orientation(image.affine)
    ras = nib.orientations.apply_orientation(image.get_fdata(dtype=np.float32), orientation)
    stack = ras.transpose(2, 1, 0)[:, ::-1, ::-1]
    spacing = np.abs(nib.affines.voxel_sizes(image.affine))[np.argsort(orientation[:, 0])][::-1]

    # Crop to the head, then resample the slices. What the margin lacks in the scan is air.
    box, lacks = around(foreground(stack), float(expects["margin_mm"]) / spacing)
    head = stack[box]
    size = head.shape[1:]
    if expects["spacing_mm"] != "as scanned":
        step = float(expects["spacing_mm"])
        size = [max(1, round(n * d / step)) for n, d in zip(size, spacing[1:], strict=True)]
    raw = resized(head, *size)

    # Intensities to [-1, 1], slices padded to the size that the network was trained with.
    inside = foreground(raw)
    curve, outside = intensity_curve(raw, inside, json.loads(expects["intensities"]))
    slices = normalised(raw, curve)
    if outside is not None:
        slices[outside] = -1
    air = [
        np.round(np.array(lacks[axis]) * size[axis - 1] / head.shape[axis]).astype(int)
        for axis in (1, 2)
    ]
    slices = np.pad(slices, [(0, 0), *air], constant_values=-1)
    multiple, least = int(expects["multiple"]), int(expects["least_size"])
    rows, columns = (multiple * math.ceil(max(n, least) / multiple) for n in slices.shape[1:])
    top, left = (rows - slices.shape[1]) // 2, (columns - slices.shape[2]) // 2
    padded = np.full((len(slices), 1, rows, columns), -1, np.float32)
    padded[:, 0, top : top + slices.shape[1], left : left + slices.shape[2]] = slices
    top, left = top + air[0][0], left + air[1][0]  # where the scan begins
    made = [
        session.run(["synthesis"], {"image": padded[start : start + BATCH]})[0]
        for start in range(0, len(padded), BATCH)
    ]
    made = np.concatenate(made)[:, 0, top : top + size[0], left : left + size[1]]
    made[inside.mean(axis=(1, 2)) < 0.002] = -1  # slices without anatomy

    # Back: intensities of the target contrast, the grid and the axes of the scan.
    typical = json.loads(expects["typical"])
    result = np.full(stack.shape, typical["low"], np.float32)
    result[box] = resized(restored(made, typical), *head.shape[1:])
    result[(stack == 0) & ~foreground(stack)] = 0
    back = nib.orientations.ornt_transform(np.array([[0, 1], [1, 1], [2, 1]]), orientation)
    voxels = nib.orientations.apply_orientation(result[:, ::-1, ::-1].transpose(2, 1, 0), back)
    header = image.header.copy()
    header.set_data_dtype(np.float32)
    header["descrip"] = f"synthetic {expects['target']}, for research, not for diagnosis".encode()
    nib.save(image.__class__(voxels, image.affine, header), out)


def check(expects):
    """Refuse models whose preprocessing this example does not have."""
    if "source" not in expects:
        sys.exit("the model takes several contrasts; name the file of one direction")
    others = {
        "skull stripping": expects.get("brain", "none") != "none",
        "alignment": expects["alignment"] != "none",
        "denoising": expects["denoised"] != "false",
        "bias field correction": expects["bias_correction"] != "none",
        "intensity normalisation": json.loads(expects["intensities"])["method"] != "percentile",
    }
    missing = [name for name, wanted in others.items() if wanted]
    if missing:
        sys.exit(f"the model needs {', '.join(missing)}, which this example does not have")


def foreground(stack):
    """The head: above half of Otsu's threshold of the roots of the intensities, holes filled."""
    background = np.median(stack[stack <= np.percentile(stack, 10)])
    top = np.percentile(stack, 99.9)
    roots = np.sqrt(np.clip((stack - background) / (top - background), 0, 1))
    counts, edges = np.histogram(roots, bins=256, range=(0, 1))
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above, sums = below[-1] - below, np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = sums / below - (sums[-1] - sums) / above
        variance = np.nan_to_num(below * above * apart**2)
    threshold = edges[1:][np.argmax(variance)]
    border = np.concatenate([roots[:, :3].ravel(), roots[:, -3:].ravel()])
    mask = roots > max(threshold / 2, min(np.percentile(border, 90), threshold))

    # Opening removes specks; what has anatomy on all four sides is inside.
    eroded = mask & shifted(mask, np.logical_and)
    opened = eroded | shifted(eroded, np.logical_or)
    left = np.logical_or.accumulate(opened, axis=2)
    right = np.logical_or.accumulate(opened[:, :, ::-1], axis=2)[:, :, ::-1]
    above = np.logical_or.accumulate(opened, axis=1)
    below = np.logical_or.accumulate(opened[:, ::-1], axis=1)[:, ::-1]
    return left & right & above & below


def shifted(mask, combine):
    """The four neighbours of every pixel, combined; those beyond the edge are unset."""
    wide = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    neighbours = (wide[:, :-2, 1:-1], wide[:, 2:, 1:-1], wide[:, 1:-1, :-2], wide[:, 1:-1, 2:])
    return combine.reduce(neighbours)


def around(mask, margin):
    """The box of a mask with a margin in voxels, as far as the scan goes, and what it lacks."""
    box, lacks = [], []
    for axis, wide in enumerate(np.ceil(margin).astype(int)):
        shown = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        low, high = (shown[0], shown[-1] + 1) if shown.size else (wide, mask.shape[axis] - wide)
        low, high = low - wide, high + wide
        lacks.append((max(0, -low), max(0, high - mask.shape[axis])))
        box.append(slice(max(0, low), min(mask.shape[axis], high)))
    return tuple(box), lacks


def resized(stack, rows, columns):
    """Slices of another size: linear, edges aligned; averages if they become smaller."""
    for axis, size in ((1, rows), (2, columns)):
        before = stack.shape[axis]
        if size == before:
            continue
        places = (np.arange(size) + 0.5) * before / size - 0.5
        width = max(1.0, before / size)
        weights = np.maximum(0, 1 - np.abs(np.arange(before) - places[:, None]) / width)
        weights /= weights.sum(axis=1, keepdims=True)  # (size, before)
        stack = np.moveaxis(np.tensordot(stack, weights.astype(np.float32), (axis, 1)), -1, axis)
    return np.ascontiguousarray(stack, np.float32)


def intensity_curve(raw, inside, settings):
    """Low, high, knee and floor of the scan's intensities; and what was set to zero around it."""
    low = np.percentile(raw, settings["lower_percentile"])
    high = np.percentile(raw[inside], settings["upper_percentile"])
    knee = np.percentile(raw[inside], settings["knee_percentile"])
    if abs(low) <= 0.005 * high:
        low = 0.0
    if not low < knee < low + 0.5 * (KNEE + 1) * (high - low):
        knee = None  # one straight line
    zero = raw == 0
    border = np.concatenate([zero[:, :3].ravel(), zero[:, -3:].ravel()])
    outside, floor = None, -1.0
    if zero.mean() >= 0.2 and border.mean() >= 0.99:
        outside = zero & ~inside
        if outside.size - outside.sum() <= 1.08 * inside.sum():
            floor = FLOOR  # a skull-stripped scan: -1 means outside
        else:
            outside = None
    return {"low": low, "high": high, "knee": knee, "floor": floor}, outside


def lines(curve):
    """The pieces of the curve: start, level, slope."""
    if curve["knee"] is None:
        return [(curve["low"], -1, 2 / (curve["high"] - curve["low"]))]
    return [
        (curve["low"], -1, (KNEE + 1) / (curve["knee"] - curve["low"])),
        (curve["knee"], KNEE, (1 - KNEE) / (curve["high"] - curve["knee"])),
    ]


def normalised(values, curve):
    """Intensities to [-1, 1]."""
    pieces = [(values - start) * slope + level for start, level, slope in lines(curve)]
    mapped = np.clip(np.minimum.reduce(pieces), -1, 1)
    floor = curve["floor"]
    return ((mapped + 1) * (1 - floor) / 2 + floor).astype(np.float32)


def restored(values, curve):
    """The inverse of `normalised`."""
    floor = curve["floor"]
    values = np.maximum((values - floor) * 2 / (1 - floor) - 1, -1)
    pieces = [(values - level) / slope + start for start, level, slope in lines(curve)]
    return np.maximum.reduce(pieces).astype(np.float32)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python translate.py MODEL.onnx SCAN.nii.gz OUT.nii.gz")
    main(*sys.argv[1:])
