"""Write docs/reference/contrasts.md: `python -m tests.contrasts.page`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from tests.contrasts.headers import HEADERS
from tests.contrasts.names import NAMES, OTHER, UNKNOWN

from mrbridge.io.acquisition import GE_PART, SIEMENS_TYPE, Tags, of_series
from mrbridge.io.contrast import Identity, of_path
from mrbridge.io.dicom.header import MR

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "contrasts.md"
_PRIVATE = {"GE (0043,102F)": (GE_PART, "SS"), "Siemens (0021,1175)": (SIEMENS_TYPE, "CS")}
_INTRODUCTION = """# How a contrast is recognised

One set of rules (`mrbridge.io.contrast`) identifies an image by the name of its file, its BIDS
entities or its DICOM header. There are three answers:

- **a contrast**: `T1w`, `T2w`, `PDw` or `FLAIR`;
- **something else**: a mask, a map, a phase image, a scan after a contrast agent, another sequence.
  Every verb refuses it and gives the reason, unless you pass `--force`;
- **unknown**: nothing identifies the image. It is used only if you name the file, or if the folder
  or study holds nothing better, and the output says so.

A file whose name says `synth`, `synthetic`, `synthesised` or `fake` has its contrast, and is
refused in the same way. `evaluate` and `study` take such files as synthetic images. So is a NIfTI
file whose intent code says that it is a label map, a statistical map, a transformation or a
surface.

The name of the file takes precedence over the names of its folders. For a DICOM series, the rules
first check whether it is something else, then echo, repetition and inversion time, then the
description. A series whose description contradicts its timing is never preferred to a certain one.

This page is generated from the tests (`python -m tests.contrasts.page`): every row is tested.
"""


def series(tags: dict[str, Any]) -> list[Tags]:
    """A series of one slice with these tags."""
    header = Dataset()
    header.SOPClassUID, header.Modality, header.Rows, header.Columns = MR, "MR", 256, 256
    for keyword, value in tags.items():
        if keyword in _PRIVATE:
            header.add_new(*_PRIVATE[keyword], value)
        else:
            setattr(header, keyword, value)
    return [Tags(header)]


def answer(identity: Identity) -> str:
    """The decision in the words of the page."""
    return identity.contrast or (OTHER if identity.is_other else UNKNOWN)


def page() -> str:
    """The page, according to the current rules."""
    lines = [_INTRODUCTION, "## Names\n"]
    for habit, names in NAMES.items():
        lines += [f"### {habit}\n", "| name | decision | reason |", "|---|---|---|"]
        identities = ((name, of_path(name)) for name, _ in names)
        lines += [f"| `{name}` | {answer(one)} | {one.reason} |" for name, one in identities]
        lines.append("")
    lines.append("## DICOM headers\n")
    for what, headers in HEADERS.items():
        lines += [f"### {what}\n", "| tags | decision | reason |", "|---|---|---|"]
        for _, tags in headers:
            one = of_series(series(tags))
            shown = ", ".join(f"{keyword} {_shown(value)}" for keyword, value in tags.items())
            lines.append(f"| {shown or 'none'} | {answer(one)} | {one.reason} |")
        lines.append("")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    text = "\\\\".join(value) if isinstance(value, list) else str(value)
    return f"`{text}`" if text else "empty"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
