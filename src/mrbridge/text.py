"""Text from elsewhere: encodings, JSON, and URLs such as `s3://bucket/bids`, without access.

Remote files have a mirror in a temporary folder, `.~….places/s3/bucket/bids`, so that everything
else works on paths (`mrbridge.io.remote`). The path of a mirror contains the URL, which every
process can read from it.
"""

from __future__ import annotations

import codecs
import json
import re
import reprlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and newline
    "\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # and what turns text
    "\ud800-\udfff]"
)

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


def visible(text: str) -> str:
    """Text in which what would steer a terminal, or hide, is written as an escape (`\\x1b`)."""
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def shortened(text: str, most: int = 200) -> str:
    """Text of at most so many characters: what is in the middle of a longer one is left out."""
    if len(text) <= most:
        return text
    return f"{text[: most - most // 4 - 3]} … {text[len(text) - most // 4 :]}"


def short_repr(value: Any) -> str:
    """A value as Python writes it, in one line of bounded length however large it is."""
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = brief.maxlong = 80
    try:
        return brief.repr(value)
    except ValueError:  # Python refuses to write integers of thousands of digits
        return "a number of thousands of digits"


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """`, did you mean 'x'?` with the known word that is nearest to a misspelt one, or nothing."""
    import difflib

    near = difflib.get_close_matches(word, list(known), 1, cutoff)
    return f", did you mean '{near[0]}'?" if near else ""


def decode(data: bytes) -> tuple[str, str]:
    """The text of a file, and its encoding: `utf-8`, `utf-16`, `utf-32` or `cp1252`.

    A byte order mark decides. Without one, zeros in every second byte mean UTF-16. Other text is
    UTF-8 if valid, or Windows-1252, the superset of Latin-1 that spreadsheets write.

    Raises:
        ValueError: it is not text.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data.decode("utf-8-sig" if encoding == "utf-8" else encoding), encoding
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if data[first:200:2] and not any(data[first:200:2]):
            with suppress(UnicodeDecodeError):
                return data.decode(encoding), "utf-16"
    if b"\0" in data:
        raise ValueError("it is not text")
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace"), "cp1252"


def parse_json(
    text: str | bytes | bytearray,
    constant: Callable[[str], Any] | None = None,
    *,
    unique: bool = False,
) -> Any:
    """What a JSON text holds.

    Args:
        text: the text.
        constant: what `NaN`, `Infinity` and `-Infinity` become, which JSON does not have; None
            takes them as numbers.
        unique: refuse a key that an object holds twice; otherwise the last one counts.

    Raises:
        ValueError: it is not JSON, or is nested deeper than Python reads it.
    """
    pairs = _unique if unique else None
    try:
        return json.loads(text, parse_constant=constant, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {short_repr(twice)} occurs twice")
    return found


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
