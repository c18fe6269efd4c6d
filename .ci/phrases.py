"""Finds phrases that a native speaker would not write, and words that the glossary replaces.

    python .ci/phrases.py             # in Markdown, and in Python code, comments and strings
    python .ci/phrases.py docs src    # show every occurrence below these paths
    python .ci/phrases.py --update    # lower the baseline to what is left

`.ci/phrases.json` holds the number of occurrences that are still permitted, package by package. The
numbers may only fall, and a package that is not listed has none. Fenced code blocks in Markdown are
not searched.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

BASELINE = Path(__file__).with_suffix(".json")

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
    """The Markdown and Python files under version control, below `paths` if there are any."""
    command = ["git", "ls-files", "-z", "--", *paths]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return [
        path
        for path in map(Path, filter(None, names))
        if path.suffix in {".md", ".py"} and path.name != "phrases.py" and path.exists()
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


def package(path: Path) -> str:
    """What a file's occurrences count for: `src/mrbridge/io`, `docs/how-to`, `README.md`."""
    return "/".join(path.parts[: 3 if path.parts[0] == "src" else 2][: len(path.parts) - 1]) or str(
        path
    )


def main(arguments: list[str]) -> int:
    """Compare with the baseline, or list occurrences; returns the exit code."""
    paths = [name for name in arguments if not name.startswith("--")]
    counts: Counter[str] = Counter()
    lines: list[tuple[str, str]] = []
    for path in text_files(paths):
        for number, phrase, advice in occurrences(path):
            counts[package(path)] += 1
            lines.append((package(path), f"{path}:{number}: '{phrase}': {advice}"))
    if paths:
        print("\n".join(line for _, line in lines))
        return 1 if lines else 0
    allowed: dict[str, int] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    if "--update" in arguments:
        left = {
            name: min(count, allowed[name]) if allowed else count
            for name, count in sorted(counts.items())
            if not allowed or name in allowed
        }
        BASELINE.write_text(json.dumps(left, indent=2) + "\n")
    worse = {name for name, count in counts.items() if count > allowed.get(name, 0)}
    if "--update" not in arguments:
        for name, line in lines:
            if name in worse:
                print(line)
        for name in sorted(worse):
            print(f"{name}: {counts[name]} occurrences, {allowed.get(name, 0)} allowed")
    return 1 if worse and "--update" not in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
