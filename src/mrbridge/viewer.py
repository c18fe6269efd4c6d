"""The viewer of pages and reports: volumes as it reads them, and pages that hold both.

NiiVue is built from the folder `web` of the sources; an installation without npm has none.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge.errors import MrbridgeError
from mrbridge.reports import render
from mrbridge.volume import Volume

STATIC = Path(__file__).with_name("web") / "static"
"""What `npm run build` in the folder `web` of the sources makes."""

NOT_BUILT = "this installation has no page, because it was installed from source without npm"
BUILD_IT = "Install Node.js with npm, and install mrbridge again."

_MOST_VOXELS = 600_000  # of a volume in a report: a case with four takes 3.5 MiB
_MARGIN = 4  # voxels around the anatomy in a report
_LAYERS = "@@LAYERS@@"


@dataclass(frozen=True)
class Layer:
    """One volume of a page.

    Attributes:
        role: `source`, `synthetic`, `truth`, `difference` or `uncertainty`.
        label: its title.
        volume: the voxels, all layers of a page on one grid.
    """

    role: str
    label: str
    volume: Volume


def is_built() -> bool:
    """Whether this installation has the page."""
    return (STATIC / "view.js").is_file() and (STATIC / "index.html").is_file()


def must_be_built() -> None:
    """Refuse an installation from source on a machine without npm, which has no page."""
    if not is_built():
        raise MrbridgeError(NOT_BUILT, remedy=BUILD_IT)


def as_image(volume: Volume, *, rounded: bool = False) -> nib.Nifti1Image:
    """A volume as NIfTI, which only viewers read.

    A 2D image is laid on its back with square pixels of 1 mm, so that viewers show it upright.

    Args:
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


def page(layers: Sequence[Layer]) -> str:
    """The page with these layers."""
    title = " and ".join(layer.label for layer in layers[:2])
    return _page(title, _as_json([_entry(layer) for layer in layers]))


def _page(title: str, layers: str) -> str:
    return render(
        "view.html.j2",
        title=title,
        style=(STATIC / "app.css").read_text("utf-8"),
        script=(STATIC / "view.js").read_text("utf-8").replace("</script", "<\\/script"),
        layers=layers,
    )


def _as_json(entries: Sequence[Mapping[str, Any]]) -> str:
    """JSON that may be inside a script element."""
    return json.dumps(entries).replace("<", "\\u003c")


def _entry(layer: Layer, bits: int = 16) -> dict[str, Any]:
    """A layer for the page's script: the window, and a compressed NIfTI file in base64."""
    shown = window(layer.volume)
    image = as_image(layer.volume, rounded=True)
    if bits == 8:
        low, high = shown["low"], shown["high"]
        grey = np.clip((layer.volume.voxels - low) / (high - low), 0, 1) * 255
        levels = replace(layer.volume, voxels=grey.round().astype(np.uint8))
        image = as_image(levels)
        image.header.set_slope_inter((high - low) / 255, low)
    packed = gzip.compress(image.to_bytes(), 6, mtime=0)
    return {
        "role": layer.role,
        "label": layer.label,
        "synthetic": layer.role in ("synthetic", "difference") or layer.volume.synthetic,
        **shown,
        "data": base64.b64encode(packed).decode("ascii"),
    }


def window(volume: Volume) -> dict[str, float]:
    """The intensities that are shown black and white; around zero for a difference."""
    step = max(1, volume.voxels.shape[0] // 64)
    low, high = (float(x) for x in np.percentile(volume.voxels[::step], (0.5, 99.7)))
    if 0 <= low < 0.1 * high:
        low = 0.0
    elif low < -0.1 * high:
        low, high = min(low, -high), max(high, -low)
    return {"low": low, "high": high if high > low else low + 1}


@dataclass(frozen=True)
class Embedded:
    """Volumes in a report, shown by a viewer behind a click."""

    title: str
    layers: str


def embedded(
    title: str,
    stacks: Mapping[str, tuple[str, NDArray[Any]]],
    mask: NDArray[np.bool_],
    spacing: tuple[float, float, float] | None,
) -> Embedded:
    """Volumes for a report: cropped to the anatomy, in 256 grey levels.

    Volumes of more than 600,000 voxels are made smaller, with linear interpolation.

    Args:
        title: what they show.
        stacks: label and image by role (see `Layer`), all of one shape (slices, rows, columns),
            inferior first, rows to posterior, columns to the patient's left.
        mask: where the anatomy is, the same shape.
        spacing: mm between slices, rows, columns; None for 2D images.
    """
    box = ndimage.find_objects(mask.astype(np.uint8))[0] if mask.any() else (slice(None),) * 3
    box = tuple(
        slice(max(0, (part.start or 0) - _MARGIN), (part.stop or size) + _MARGIN)
        for part, size in zip(box, mask.shape, strict=True)
    )
    entries = []
    for role, (label, stack) in stacks.items():
        image = np.asarray(stack[box], np.float32)
        factor = min(1.0, (_MOST_VOXELS / image.size) ** (1 / 3))
        if factor < 1:
            image = ndimage.zoom(image, factor, order=1)
        # To the right, anterior and superior.
        steps = np.array(spacing or (1.0, 1.0, 1.0)) / factor
        affine = None if spacing is None else np.diag([*steps[::-1], 1.0])
        voxels = image.transpose(1, 2, 0) if affine is None else image[:, ::-1, ::-1].T
        entries.append(_entry(Layer(role, label, Volume(np.ascontiguousarray(voxels), affine)), 8))
    return Embedded(title, _as_json(entries))


@cache
def packed_viewer() -> str | None:
    """The viewer for a report, compressed, in base64; None if this installation has none."""
    if not is_built():
        return None
    packed = gzip.compress(_page("", _LAYERS).encode(), 9, mtime=0)
    return base64.b64encode(packed).decode("ascii")
