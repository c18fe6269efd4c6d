"""What the page shows: thumbnails as PNG, histograms as SVG that follows the page's colours."""

from __future__ import annotations

from collections.abc import Sequence, Set
from html import escape
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrbridge.inspection.facts import BINS, Facts
from mrbridge.page import image

_WIDTH, _HEIGHT, _BASE = 520, 150, 18  # pixels; the base is the room for words below
_NAMED = 6  # outliers drawn one by one


def tile(one: Facts, remark: str = "") -> str:
    """A scan's thumbnail with its name."""
    pictures = [image(png(one.thumbnail), f"middle slice of {one.name}")]
    if one.side_view is not None:
        pictures.append(image(png(one.side_view), f"side view of {one.name}"))
    words = f"{escape(one.name)}" + (f"<br>{escape(remark)}" if remark else "")
    return f"<figure>{''.join(pictures)}<figcaption>{words}</figcaption></figure>\n"


def png(thumbnail: NDArray[np.uint8]) -> bytes:
    """Grey pixels as a PNG file."""
    stream = BytesIO()
    Image.fromarray(thumbnail).save(stream, "PNG")
    return stream.getvalue()


def histograms(contrast: str, scans: Sequence[Facts], outliers: Set[str]) -> str:
    """The median histogram of a contrast, the band of 9 scans in 10, and the outliers' own."""
    shares = np.stack([one.histogram for one in scans])
    # Pictures of 8 bit have empty bins between their levels once a window was applied.
    smooth = np.apply_along_axis(np.convolve, 1, shares, np.array([0.25, 0.5, 0.25]), "same")
    low, middle, high = np.percentile(smooth, (5, 50, 95), axis=0)
    drawn = [n for n, one in enumerate(scans) if one.name in outliers][:_NAMED]
    top = max(float(high.max()), *(float(smooth[n].max()) for n in drawn), 1e-9)
    band = f"{_points(high, top)} {_points(low[::-1], top, backwards=True)}"
    lines = "".join(
        f'<polyline class="outlier" points="{_points(smooth[n], top)}">'
        f"<title>{escape(scans[n].name)}</title></polyline>"
        for n in drawn
    )
    told = f"Intensities inside the head, {contrast}"
    if len(scans) > 1:
        told += f": median and 5th to 95th percentile of {len(scans)} scans"
    return (
        f'<figure><svg class="plot" role="img" viewBox="0 0 {_WIDTH} {_HEIGHT + _BASE}" '
        f'aria-label="{escape(told)}"><polygon class="band" points="{band}"/>'
        f'<polyline class="middle" points="{_points(middle, top)}"/>{lines}'
        f'<line class="axis" x1="0" x2="{_WIDTH}" y1="{_HEIGHT}" y2="{_HEIGHT}"/>'
        f'<text x="0" y="{_HEIGHT + 14}">darkest</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT + 14}" text-anchor="end">brightest</text></svg>'
        f"<figcaption>{escape(told)}{_names(scans, drawn, outliers)}.</figcaption></figure>\n"
    )


def _names(scans: Sequence[Facts], drawn: Sequence[int], outliers: Set[str]) -> str:
    if not drawn:
        return ""
    names = ", ".join(scans[n].name for n in drawn)
    count = sum(one.name in outliers for one in scans)
    more = f" and {count - len(drawn)} more" if count > len(drawn) else ""
    return escape(f"; standing out: {names}{more}")


def _points(values: NDArray[np.float64], top: float, *, backwards: bool = False) -> str:
    places = np.linspace(0, _WIDTH, BINS)
    if backwards:
        places = places[::-1]
    heights = _HEIGHT * (1 - values / top)
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(places, heights, strict=True))
