"""What the report says of pairs that were registered before they were scored."""

from __future__ import annotations

from html import escape

from mrbridge.evaluation.markup import number
from mrbridge.evaluation.result import Evaluation
from mrbridge.page import counted
from mrbridge.preparation.register import AGREEMENT_MM


def registered_remark(result: Evaluation) -> str:
    """A sentence for the head of the page; empty where nothing was registered."""
    count = sum(one.placement is not None for one in result.cases)
    if not count:
        return ""
    why = {
        "auto": "did not lie on one grid and were",
        "rigid": "were, as asked,",
        "affine": "were, as asked,",
    }[result.settings.registration]
    return (
        f"<p>{count} of {counted(len(result.cases), 'pair')} {why} registered before they were "
        "scored; what that took is told below.</p>\n"
    )


def registered_section(result: Evaluation) -> str:
    """How each pair was brought together; empty where none had to be."""
    rows = []
    for one in result.cases:
        if one.placement is None:
            continue
        found = one.placement.found
        cells = [
            one.case.name,
            found.kind,
            number(found.displacement_mm, 2),
            number(found.residual_mm, 2),
            f"{number(found.before, 3)} → {number(found.after, 3)}",
            one.placement.onto,
        ]
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>\n")
    if not rows:
        return ""
    heads = (
        "case",
        "transform",
        "moved by, mm",
        "known to, mm",
        "mutual information, nats",
        "scored on the grid of",
    )
    return (
        "<h2>Registration</h2>\n<p>The two scans of these pairs were registered with one another "
        "(mutual information of the true scans; of a synthesis and the true scan where syntheses "
        "were given), brought onto the grid of the one with the thicker slices, and scored where "
        "both show something. The other scan of each pair was resampled with cubic splines, "
        "blurred to the thicker slices; syntheses of it likewise, after they were made on its own "
        "grid. Resampling smooths, for floor, copy and model alike.</p>\n"
        '<div class="wide"><table>\n<thead><tr>'
        + "".join(f"<th>{head}</th>" for head in heads)
        + f"</tr></thead>\n<tbody>\n{''.join(rows)}</tbody></table></div>\n"
        '<p class="faint"><em>Moved by</em>: the furthest way of any point of the head. '
        "<em>Known to</em>: the largest distance between the places to which two searches put a "
        "point of the head, of those that began elsewhere, looked at other voxels and ended as "
        f"well; pairs beyond {AGREEMENT_MM:g} mm are refused.</p>\n"
    )
