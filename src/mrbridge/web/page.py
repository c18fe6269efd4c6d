"""One self-contained page to look at scans: viewer and data inside (`mrbridge view`)."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from mrbridge.errors import MrbridgeError
from mrbridge.io import read
from mrbridge.io.atomic import write_text
from mrbridge.reports import render
from mrbridge.volume import Volume
from mrbridge.web.views import as_image, on_grid_of

STATIC = Path(__file__).with_name("static")
"""What `npm run build` in the folder `web` of the sources makes."""


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


@dataclass(frozen=True, repr=False)
class View:
    """A page; in a notebook it shows itself.

    Attributes:
        html: the whole page.
        path: its file, if it was written.
    """

    html: str
    path: Path | None = None
    height: int = 620

    def __repr__(self) -> str:
        return f"View({len(self.html) / 2**20:.1f} MiB{f', {self.path}' if self.path else ''})"

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{escape(self.html)}" sandbox="allow-scripts allow-downloads" '
            f'title="mrbridge view" style="width:100%;height:{self.height}px;border:0"></iframe>'
        )


def is_built() -> bool:
    """Whether this installation has the page."""
    return (STATIC / "view.js").is_file() and (STATIC / "index.html").is_file()


NOT_BUILT = "this installation has no page, because it was installed from source without npm"
BUILD_IT = "Install Node.js with npm, and install mrbridge again."


def must_be_built() -> None:
    """Refuse an installation without the page.

    Raises:
        MrbridgeError: it was installed from source on a machine without npm.
    """
    if not is_built():
        raise MrbridgeError(NOT_BUILT, remedy=BUILD_IT)


def view(
    scan: str | Path | Volume,
    synthetic: str | Path | Volume | None = None,
    out: str | Path | None = None,
    *,
    uncertainty: str | Path | Volume | None = None,
    truth: str | Path | Volume | None = None,
) -> View:
    """One self-contained page to look at scans, which needs no network.

    Args:
        scan: a path, or a volume.
        synthetic: its synthetic image.
        out: the page to write (.html).
        uncertainty: the uncertainty map of the synthetic image.
        truth: the true scan of the contrast of the synthetic image.

    Returns:
        A view, which shows itself in a notebook.

    Raises:
        InputError: a scan cannot be read.
        OutputError: the page cannot be written.
        MrbridgeError: this installation has no viewer.
    """
    must_be_built()
    roles = {"source": scan, "synthetic": synthetic, "truth": truth, "uncertainty": uncertainty}
    volumes = {
        role: one if isinstance(one, Volume) else read(one, force=True)
        for role, one in roles.items()
        if one is not None
    }
    first = volumes["source"]
    layers = [
        Layer(role, _label(role, volume), on_grid_of(volume, first))
        for role, volume in volumes.items()
    ]
    html = page(layers)
    if out is None:
        return View(html)
    write_text(out, html)
    return View(html, Path(out))


def _label(role: str, volume: Volume) -> str:
    name = volume.contrast or "Scan"
    if role == "uncertainty":
        return "Uncertainty"
    return f"{name} (synthetic)" if role == "synthetic" or volume.synthetic else name


def write_page(path: Path, layers: Sequence[Layer]) -> None:
    """Write a page.

    Raises:
        OutputError: it cannot be written.
    """
    write_text(path, page(layers))


def page(layers: Sequence[Layer]) -> str:
    """The page with these layers."""
    data = json.dumps([_entry(layer) for layer in layers])
    return render(
        "view.html.j2",
        title=" and ".join(layer.label for layer in layers[:2]),
        style=(STATIC / "app.css").read_text("utf-8"),
        script=(STATIC / "view.js").read_text("utf-8").replace("</script", "<\\/script"),
        layers=data.replace("<", "\\u003c"),
    )


def _entry(layer: Layer) -> dict[str, Any]:
    """A layer for the page's script: the window, and a compressed NIfTI file in base64."""
    packed = gzip.compress(as_image(layer.volume, rounded=True).to_bytes(), 5, mtime=0)
    return {
        "role": layer.role,
        "label": layer.label,
        "synthetic": layer.role in ("synthetic", "difference") or layer.volume.synthetic,
        **window(layer.volume),
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
