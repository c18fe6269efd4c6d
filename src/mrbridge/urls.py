"""URLs such as `s3://bucket/bids`: recognising, masking and showing them, without access.

Remote files have a mirror in a temporary folder, `.~….places/s3/bucket/bids`, so that everything
else works on paths (`mrbridge.io.remote`). The path of a mirror contains the URL, which every
process can read from it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mrbridge.json_text import visible

MIRROR_SUFFIX = ".places"
"""The end of the name of the temporary folder."""

_URL = re.compile(r"(?P<kind>[a-z][a-z0-9+.-]+):/{1,2}(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_CHAINED = re.compile(r"[a-z][a-z0-9+.-]*::", re.IGNORECASE)
_ROOT = r"/\.~[0-9a-f]{6}-\d+(?:\.\d+)?-[0-9a-f]{8}\.places/(?P<kind>[a-z][a-z0-9+.-]+)(?:/|$)"
_MIRRORED = re.compile(_ROOT, re.IGNORECASE)
# These run in linear time on text of any length: each pattern begins with something rare, and no
# two matches look at the same characters.
_SECRET = re.compile(r"(?<=[a-z0-9+.-])(?P<slashes>:/{1,2})[^/\s]*@", re.IGNORECASE)
_WORD = re.compile(r"\S+")
_WEB = re.compile(r"https?:/", re.IGNORECASE)
_QUERY = re.compile(r"""\?[^\s"')]+""")
_SIGNS = re.compile(r"sig|token|credential|key", re.IGNORECASE)
_BEFORE_PATHS = " \t\n\"'("


def is_url(place: Any) -> bool:
    """Whether text or a path (which has one slash where the URL had two) names a URL."""
    text = str(place)
    if isinstance(place, str) and _CHAINED.match(text):
        return True
    return isinstance(place, str | Path) and _URL.match(text) is not None


def parts(url: str | Path) -> tuple[str, str]:
    """The kind of a URL in lower case, such as `s3`, and what follows `://`."""
    match = _URL.match(str(url))
    assert match is not None, "call is_url first"
    return match["kind"].lower(), match["rest"].lstrip("/").rstrip("/")


def url_of(path: Path) -> str | None:
    """The URL that a path mirrors; None for a local path."""
    text = str(path)
    if MIRROR_SUFFIX not in text:
        return None
    match = _MIRRORED.search(text)
    return None if match is None else f"{match['kind']}://{text[match.end() :]}"


def masked(text: str) -> str:
    """Text without the names and passwords in its URLs (`ftp://***@host`) and without signatures,
    which follow a question mark."""
    text = _SECRET.sub(r"\g<slashes>***@", text)
    return _WORD.sub(_unsigned, text) if "?" in text else text


def _unsigned(word: re.Match[str]) -> str:
    web = _WEB.search(word[0])
    if web is None:
        return word[0]
    before, after = word[0][: web.end()], word[0][web.end() :]
    return before + _QUERY.sub(lambda part: "?***" if _SIGNS.search(part[0]) else part[0], after)


def shown(place: str | Path) -> str:
    """Text or a path as a terminal may show it: URLs instead of mirrors, no secrets, and control
    characters as escapes."""
    return visible(without_secrets(place))


def without_secrets(place: str | Path) -> str:
    """Text or a path with URLs instead of mirrors, and no secrets."""
    text = str(place)
    if isinstance(place, Path):
        text = "://".join(parts(place)) if is_url(place) else url_of(place) or text
    if MIRROR_SUFFIX in text:
        text = _without_mirrors(text)
    return masked(text)


def _without_mirrors(text: str) -> str:
    """Text with URLs instead of the paths of their mirrors."""
    parts, end = [], 0
    for found in _MIRRORED.finditer(text):
        before = text[end : found.start()]
        start = max(before.rfind(letter) for letter in _BEFORE_PATHS) + 1
        parts += [before[:start], found["kind"], "://"]
        end = found.end()
    return "".join([*parts, text[end:]])
