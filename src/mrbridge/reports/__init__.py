"""Reports: self-contained HTML pages, and model cards in Markdown, from `templates`.

In HTML every value is escaped; the pages have no script and no link.
"""

from __future__ import annotations

import base64
import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrbridge import __version__

if TYPE_CHECKING:
    from jinja2 import Environment

_MINUS = "\u2212"


def render(template: str, **values: Any) -> str:
    """A whole page or card.

    Args:
        template: the file's name in `templates`.
        values: its variables; an undefined one is an error.
    """
    text = _environment().get_template(template).render(values)
    # File names may hold bytes that are not text.
    return text.encode("utf-8", "replace").decode("utf-8")


def counted(count: float, noun: str, several: str | None = None) -> str:
    """`1 case`, `2 cases`; `several` is the plural, if it does more than add an s."""
    number = f"{count:g}" if isinstance(count, float) else count
    return f"{number} {noun if count == 1 else several or f'{noun}s'}"


def some(items: Iterable[object], most: int = 4, separator: str = ", ") -> str:
    """The first few of several items: `a, b and 3 more`."""
    first = [str(item) for item in items]
    more = len(first) - most
    return separator.join(first[:most]) + (f" and {more} more" if more > 0 else "")


def some_files(names: Sequence[str]) -> str:
    """The first few different names, and the number of files."""
    return some(dict.fromkeys(names)) + (f" ({len(names)} files)" if len(names) > 1 else "")


def html_table(rows: Iterable[Iterable[Any]], head: Sequence[str] = ()) -> str:
    """A table for a notebook, with a heading if there is one."""
    lines = [f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>"] if head else []
    for row in rows:
        lines.append(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>")
    return f"<table>{''.join(lines)}</table>"


def csv_table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table as CSV."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def number(value: float | None, digits: int) -> str:
    """With a minus sign (U+2212); infinity (the PSNR of equal images, None in JSON) as a sign."""
    if value is None or not math.isfinite(value):
        return "∞"
    return f"{value:.{digits}f}".replace("-", _MINUS)


def mean_and_std(value: Mapping[str, Any], digits: int) -> str:
    """`23.1 ± 0.4`, or only the mean for a single subject."""
    mean = number(value["mean"], digits)
    return mean if value["std"] is None else f"{mean} ± {number(value['std'], digits)}"


def data_uri(png: bytes | Path) -> str:
    """A PNG image as the source of an `img` element: as lossless WebP, about half as large."""
    from PIL import Image

    content = BytesIO()
    with Image.open(png if isinstance(png, Path) else BytesIO(png)) as image:
        image.save(content, "WEBP", lossless=True, method=2)  # more effort gains nothing
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=lambda name: name is not None and ".html" in name,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        counted=counted, number=number, mean_and_std=mean_and_std, data_uri=data_uri
    )
    environment.globals["version"] = __version__
    return environment
