"""Pieces of HTML that the report is made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from mrbridge.evaluation.summary import MEASURES

HEADINGS = {"psnr": "PSNR, dB ↑", "ssim": "SSIM ↑", "mae": "MAE ↓"}
DIGITS = {"psnr": 2, "ssim": 3, "mae": 3}


def number(value: float | None, digits: int) -> str:
    """With a true minus sign; infinity (the PSNR of equal images, None in JSON) as a sign too."""
    if value is None or not math.isfinite(value):
        return "∞"
    return f"{value:.{digits}f}".replace("-", "−")


def mean_and_std(value: Mapping[str, Any], digits: int) -> str:
    """`23.1 ± 0.4`, or only the mean where there is a single subject."""
    mean = number(value["mean"], digits)
    return mean if value["std"] is None else f"{mean} ± {number(value['std'], digits)}"


def score_cells(table: Mapping[str, Any]) -> list[str]:
    """The cells of one method: fitted, then plain."""
    return [
        mean_and_std(table[kind][measure], DIGITS[measure])
        for kind in ("fit", "plain")
        for measure in MEASURES
    ]


def score_table(rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """A table of fitted and plain scores; rows are (class, cells), the first cell the name."""
    heads = "".join(
        f"<th{' class=first' if measure == 'psnr' else ''}>{HEADINGS[measure]}</th>"
        for _ in range(2)
        for measure in MEASURES
    )
    body = "".join(
        f'<tr class="{kind}">'
        + "".join(
            f"<td{' class=first' if k in (1, 4) else ''}>{escape(cell)}</td>"
            for k, cell in enumerate(cells)
        )
        + "</tr>\n"
        for kind, cells in rows
    )
    return (
        '<div class="wide"><table>\n<thead><tr><th></th><th class="group" colspan="3">fitted</th>'
        f'<th class="group" colspan="3">plain</th></tr>\n<tr><th></th>{heads}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>\n"
    )
