"""Places that are named by URL, such as `s3://bucket/bids`: what their names tell, without access.

What lies at URLs is mirrored in a temporary folder, as `.~….places/s3/bucket/bids`, so that all the
rest works on paths (`mrbridge.io.places`). Every process can read off a path which URL it mirrors.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

MIRROR_SUFFIX = ".places"
"""What the name of the temporary folder ends with."""

_URL = re.compile(r"(?P<kind>[a-z][a-z0-9+.-]+):/{1,2}(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_CHAINED = re.compile(r"[a-z][a-z0-9+.-]*::", re.IGNORECASE)
_ROOT = r"/\.~[0-9a-f]{6}-\d+(?:\.\d+)?-[0-9a-f]{8}\.places/(?P<kind>[a-z][a-z0-9+.-]+)(?:/|$)"
_MIRRORED = re.compile(_ROOT, re.IGNORECASE)
_MIRRORED_IN_TEXT = re.compile(r"""[^\s"'(]*""" + _ROOT, re.IGNORECASE)
_SECRET = re.compile(r"(?P<kind>[a-z][a-z0-9+.-]*:/{1,2})[^/\s@]*@", re.IGNORECASE)
_SIGNED = re.compile(
    r"""(?P<url>https?:/{1,2}[^\s?]*)\?[^\s"')]*(sig|token|credential|key)[^\s"')]*""",
    re.IGNORECASE,
)


def is_url(place: Any) -> bool:
    """Whether text or a path (which has one slash where the URL had two) names a URL."""
    text = str(place)
    if isinstance(place, str) and _CHAINED.match(text):
        return True
    return isinstance(place, str | Path) and _URL.match(text) is not None


def parts(url: str | Path) -> tuple[str, str]:
    """The kind of a URL in lower case, such as `s3`, and what follows `://`."""
    match = _URL.match(str(url))
    assert match is not None, "is_url told that it is one"
    return match["kind"].lower(), match["rest"].lstrip("/").rstrip("/")


def url_of(path: Path) -> str | None:
    """The URL that a path mirrors; None for a local path."""
    text = str(path)
    if MIRROR_SUFFIX not in text:
        return None
    match = _MIRRORED.search(text)
    return None if match is None else f"{match['kind']}://{text[match.end() :]}"


def masked(text: str) -> str:
    """Text without the names and passwords of its URLs (`ftp://***@host`), and without what signs
    links, which follows their question marks.
    """
    return _SIGNED.sub(r"\g<url>?***", _SECRET.sub(r"\g<kind>***@", text))


def shown(place: str | Path) -> str:
    """Text or a path as users may see it: URLs in the place of their mirrors, and no secrets."""
    text = str(place)
    if isinstance(place, Path):
        text = "://".join(parts(place)) if is_url(place) else url_of(place) or text
    if MIRROR_SUFFIX in text:
        text = _MIRRORED_IN_TEXT.sub(r"\g<kind>://", text)
    return masked(text)
