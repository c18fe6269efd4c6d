"""All scans and findings, beside the page, which shows so many only as can be looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mrbridge import __version__
from mrbridge.inspection.facts import Facts
from mrbridge.inspection.inspect import Inspection, findings_beside
from mrbridge.io.safety import write_text


def write_complete(found: Inspection, page: Path) -> Path:
    """Write it; the same for any number of workers. Of DICOM no file or folder is named.

    Raises:
        OutputError: it cannot be written.
    """
    told = found.told()
    del told["path"], told["seconds"]  # the page beside it is the same wherever and however made
    told = {"mrbridge": __version__, "of": found.called} | told
    told |= {"scans": [_scan(one) for one in found.facts]}
    # Names of files may hold bytes that are no text: json writes them as escapes.
    write_text(findings_beside(page), json.dumps(told, indent=1) + "\n")
    return findings_beside(page)


def _scan(one: Facts) -> dict[str, Any]:
    scan = one.job.scan
    return {
        "scan": one.name,
        "subject": scan.subject,
        "session": scan.session,
        "contrast": one.contrast,
        "splits": list(one.job.splits),
        "shape": list(one.shape),
        "spacing_mm": None if one.spacing is None else [_short(step) for step in one.spacing],
        "grid": one.grid,
        "orientation": one.orientation,
        "range": [_short(end) for end in one.range],
        "tilt": _short(one.tilt),
        "noise": _short(one.noise),
        "sharpness": _short(one.sharpness),
        "cut": {side: _short(share) for side, share in one.cut.items() if share},
        "sha256": one.sha256,
        "notes": list(one.notes),
    }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
