"""One self-contained page to look at scans: viewer and data inside (`mrbridge view`)."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

from mrbridge.errors import InputError
from mrbridge.inference.in_memory import Scan, as_volume
from mrbridge.io import read
from mrbridge.io.atomic import write_text
from mrbridge.io.ownership import must_be_our_page
from mrbridge.preprocessing.resample import covered, grid_difference, resample, stored_like
from mrbridge.settings import checked
from mrbridge.viewer import Layer, must_be_built, page
from mrbridge.volume import Volume


@dataclass(frozen=True, repr=False)
class View:
    """A page; in a notebook it shows itself.

    Attributes:
        html: the whole page.
        path: its file, if it was written.
        height: of the frame in a notebook, in pixels.
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


@checked
def view(
    scan: Scan,
    synthetic: Scan | None = None,
    out: str | Path | None = None,
    *,
    uncertainty: Scan | None = None,
    truth: Scan | None = None,
) -> View:
    """One self-contained page to look at scans, which needs no network.

    Args:
        scan: a path or URL; or a `Volume`, a nibabel image, or an array (i, j, k) with its affine
            (4, 4) to RAS+ mm.
        synthetic: its synthetic image.
        out: the page to write (.html).
        uncertainty: the uncertainty map of the synthetic image.
        truth: the true scan of the contrast of the synthetic image.

    Returns:
        A view, which shows itself in a notebook.

    Raises:
        InputError: a scan cannot be read, a 2D image has another size than the first scan, or a
            volume shows another part of space.
        OutputError: the page cannot be written, or mrbridge did not write what is there.
        MrbridgeError: this installation has no viewer.
    """
    must_be_built()
    if out is not None:
        must_be_our_page(Path(out))
    roles = {"source": scan, "synthetic": synthetic, "truth": truth, "uncertainty": uncertainty}
    volumes = {
        role: read(one, force=True) if isinstance(one, str | Path) else _in_memory(one)
        for role, one in roles.items()
        if one is not None or role == "source"
    }
    first = volumes["source"]
    layers = [
        Layer(role, _label(role, volume), _on_grid_of(first, volume, role))
        for role, volume in volumes.items()
    ]
    html = page(layers)
    if out is None:
        return View(html)
    write_text(out, html)
    return View(html, Path(out))


def _in_memory(scan: Scan) -> Volume:
    return scan if isinstance(scan, Volume) else as_volume(scan)


def _on_grid_of(first: Volume, volume: Volume, role: str) -> Volume:
    volume = stored_like(volume, first)
    if grid_difference(volume, first) is None:
        return volume
    if first.affine is not None and volume.affine is not None and not covered(volume, first).any():
        raise InputError(
            f"the {role} image shows another part of space than the first scan",
            remedy="Register one to the other, or check their headers.",
        )
    return resample(volume, first, None, "linear")


def _label(role: str, volume: Volume) -> str:
    name = volume.contrast or "Scan"
    if role == "uncertainty":
        return "Uncertainty"
    return f"{name} (synthetic)" if role == "synthetic" or volume.synthetic else name
