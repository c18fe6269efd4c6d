"""Finds phrases that a native speaker would not write, and words that the glossary replaces.

    python .ci/phrases.py             # in every text file under version control
    python .ci/phrases.py docs src    # only below these paths

Code, comments and strings are searched; fenced code blocks in Markdown are not. None is permitted.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

SUFFIXES = {".cff", ".cpp", ".css", ".j2", ".md", ".py", ".toml", ".yaml", ".yml"}

PHRASES = {
    r"(?<!there )(?<!There )\b(is|are|was|were) no (?!longer|more|less|better|worse|faster|slower)":
        "is not a …",
    r"(?<!there )\b(is|are|was|were) (?-i:none)\b": "is not one, does not exist, is empty",
    r"\btold\b": "reports, says; as a name: say what the value is",
    r"(?<!to be )\bsaid\b": "says; as a name: say what the value is",
    r"(?<!stand)(?<!stand-)\balone\b": "only",
    r"(?<!--)\bbeside\b": "next to",
    r"\blikewise\b": "also, in the same way",
    r"\banew\b": "again",
    r"\b(whoever|nobody|somebody|wherever|whichever)\b": "name the person, the place or the thing",
    r"\b(to the bit|bit by bit the same)\b": "bit-identical",
    r"\bbyte by byte\b": "byte-identical",
    r"\bof the other hand\b": "opposite handedness",
    r"\b(comes?|came|coming) along\b": "is included",
    r"\b(goes|went) on\b(?! (a|an|the)\b)": "continues",
    r"\bof (ours|theirs)\b": "our, their",
    r"\bnext to no": "hardly any",
    r"\bthere and back\b": "round trip",
    r"\bto and fro\b": "back and forth",
    r"\bshall\b": "must, or the present tense",
    r"\bfor want of\b": "for lack of",
    r"\bas it lies\b|\blies? (there|ready|beside)\b": "is",
    r"\bby itself\b(?=[,.;:)])": "automatically",
    r"\btakes? (it )?for\b": "treats as",
    r"\bsyntheses\b": "synthetic images",
    r"\bwithout a word\b": "by default",
}  # fmt: skip
PATTERN = re.compile("|".join(f"(?P<p{n}>{phrase})" for n, phrase in enumerate(PHRASES)), re.I)


def text_files(paths: Iterable[str] = ()) -> list[Path]:
    """The text files under version control, below `paths` if there are any."""
    command = ["git", "ls-files", "-z", "--", *paths]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return [
        path
        for path in map(Path, filter(None, names))
        if path.suffix in SUFFIXES and path.name != "phrases.py" and path.exists()
    ]


def occurrences(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line number, phrase and advice for every banned phrase of a file."""
    in_code = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if path.suffix == ".md" and line.lstrip().startswith("```"):
            in_code = not in_code
        if not in_code:
            for match in PATTERN.finditer(line):
                advice = list(PHRASES.values())[int((match.lastgroup or "p0")[1:])]
                yield number, match[0].strip(), advice


def main(paths: list[str]) -> int:
    """Print every occurrence; returns the exit code."""
    found = [(path, *each) for path in text_files(paths) for each in occurrences(path)]
    for path, number, phrase, advice in found:
        print(f"{path}:{number}: '{phrase}': {advice}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
