"""Pages that need nothing beside themselves: no script, no link outside, pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from importlib.resources import files


def page(title: str, sections: Iterable[str]) -> str:
    """A whole page.

    Args:
        title: plain text.
        sections: HTML.
    """
    style = files("mrbridge").joinpath("page.css").read_text(encoding="utf-8")
    text = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="mrbridge">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<main>
{"".join(sections)}</main>
</body>
</html>
"""
    # Names of files may hold bytes that are no text.
    return text.encode("utf-8", "replace").decode("utf-8")


def counted(count: int, noun: str) -> str:
    """`1 case`, `2 cases`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def words_table(rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and reasons."""
    body = "".join(
        f'<tr><td class="words">{escape(name)}</td><td class="words">{escape(reason)}</td></tr>\n'
        for name, reason in rows
    )
    return f'<div class="wide"><table><tbody>\n{body}</tbody></table></div>\n'


def image(png: bytes, description: str) -> str:
    """A picture inside the page, with what it shows for those who do not see it."""
    told = base64.b64encode(png).decode("ascii")
    return f'<img alt="{escape(description)}" src="data:image/png;base64,{told}">'


def figure(png: bytes, caption: str) -> str:
    """A picture with its caption."""
    return f"<figure>{image(png, caption)}<figcaption>{escape(caption)}</figcaption></figure>\n"
