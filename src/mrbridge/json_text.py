"""Text and JSON from elsewhere."""

from __future__ import annotations

import codecs
import json
import re
import reprlib
from collections.abc import Callable, Iterable
from contextlib import suppress
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
