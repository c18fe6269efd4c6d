"""Write docs/reference/contrasts.md: `python -m tests.contrasts.page`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from tests.contrasts.headers import HEADERS
from tests.contrasts.names import NAMES, OTHER, UNKNOWN

from mrbridge.io.contrast import Identity, of_path
from mrbridge.io.contrast.dicom import GE_PART, SIEMENS_TYPE, of_series
from mrbridge.io.dicom.files import DicomFile
from mrbridge.io.dicom.header import MR, Slice

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "contrasts.md"
_PRIVATE = {"GE (0043,102F)": (GE_PART, "SS"), "Siemens (0021,1175)": (SIEMENS_TYPE, "CS")}
_INTRODUCTION = """# Which image is it?

mrbridge decides from the name of a file, its BIDS entities or its DICOM header, by one set of rules
(`mrbridge.io.contrast`). Three answers are possible:

- **a contrast**: `T1w`, `T2w`, `PDw` or `FLAIR`;
- **something else**: a mask, a map, a phase image, a scan after a contrast agent, another sequence.
  Every verb refuses it, with the reason, unless you say `--force`;
- **not known**: nothing says what it is. It is taken only where you name the file, or where the
  folder or study holds nothing better, and the output says so.

The name of the file comes before the names of its folders. In DICOM, what a series is not comes
first, then echo, repetition and inversion time, then the description. A series whose description
contradicts its timing is never preferred to a plain one.

This page is written from the tests (`python -m tests.contrasts.page`): each row is tested.
"""


def series(tags: dict[str, Any]) -> list[Slice]:
    """A series of one slice with these tags."""
    header = Dataset()
    header.SOPClassUID, header.Modality, header.Rows, header.Columns = MR, "MR", 256, 256
    for keyword, value in tags.items():
        if keyword in _PRIVATE:
            header.add_new(*_PRIVATE[keyword], value)
        else:
            setattr(header, keyword, value)
    return [Slice(DicomFile(Path("IM1"), 0), None, header)]


def answer(identity: Identity) -> str:
    """The decision as the page says it."""
    return identity.contrast or (OTHER if identity.is_other else UNKNOWN)


def page() -> str:
    """The page as the rules decide now."""
    lines = [_INTRODUCTION, "## Names\n"]
    for habit, names in NAMES.items():
        lines += [f"### {habit}\n", "| name | decision | reason |", "|---|---|---|"]
        found = ((name, of_path(name)) for name, _ in names)
        lines += [f"| `{name}` | {answer(one)} | {one.reason} |" for name, one in found]
        lines.append("")
    lines.append("## DICOM headers\n")
    for what, headers in HEADERS.items():
        lines += [f"### {what}\n", "| tags | decision | reason |", "|---|---|---|"]
        for _, tags in headers:
            one = of_series(series(tags))
            told = ", ".join(f"{keyword} {_shown(value)}" for keyword, value in tags.items())
            lines.append(f"| {told or 'none'} | {answer(one)} | {one.reason} |")
        lines.append("")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    text = "\\\\".join(value) if isinstance(value, list) else str(value)
    return f"`{text}`" if text else "empty"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
