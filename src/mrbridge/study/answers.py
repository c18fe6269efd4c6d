"""The answers of raters: one CSV each, which they may look at and continue."""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import astuple, dataclass
from pathlib import Path

from mrbridge.errors import InputError, SettingsError
from mrbridge.io.atomic import write_text
from mrbridge.reports import csv_table
from mrbridge.study.design import Study

COLUMNS = ("scan", "question", "answer", "seconds")
ORIGIN, QUALITY = "origin", "quality"
ORIGINS, QUALITIES, PRESENCE = ("real", "synthetic"), ("1", "2", "3", "4", "5"), ("yes", "no")


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        scan: the blinded name.
        question: `origin`, `quality`, or the name of a position.
        answer: `real` or `synthetic`; 1 (unusable) to 5 (excellent); `yes` or `no`.
        seconds: from the first view of the scan to the last answer about it.
    """

    scan: str
    question: str
    answer: str
    seconds: float


def path_for(study: Study, rater: str) -> Path:
    """The file of a rater.

    Raises:
        SettingsError: the name cannot be part of a file's name.
    """
    if not re.fullmatch(r"[\w-]{1,40}", rater):
        raise SettingsError(
            f"'{rater[:40]}' cannot name a rater", remedy="Use letters, digits, - and _."
        )
    return study.path / "answers" / f"{rater}.csv"


def allowed(study: Study, scan: str) -> dict[str, tuple[str, ...]]:
    """The questions about a scan, with the possible answers."""
    spots: dict[str, tuple[str, ...]] = dict.fromkeys(study.items[scan], PRESENCE)
    return {ORIGIN: ORIGINS, QUALITY: QUALITIES} | spots


def read_answers(study: Study, path: Path) -> list[Answer]:
    """The answers of a file; none if it does not exist.

    Raises:
        InputError: it is not a file of answers to this study.
    """
    if not path.is_file():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        answers = [
            Answer(row["scan"], row["question"], row["answer"], float(row["seconds"]))
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(
            f"does not have the columns {', '.join(COLUMNS)}",
            path=path,
            remedy="Move it out of the folder.",
        ) from error
    for line, one in enumerate(answers, 2):
        known = allowed(study, one.scan) if one.scan in study.items else {}
        if one.answer not in known.get(one.question, ()):
            raise InputError(
                f"line {line} is not an answer to a question of this study",
                path=path,
                remedy="Correct the line, or move the file out of the folder.",
            )
    twice = [key for key, n in Counter((a.scan, a.question) for a in answers).items() if n > 1]
    if twice:
        raise InputError(
            f"answers a question about {twice[0][0]} twice",
            path=path,
            remedy="Remove one of the two lines.",
        )
    return answers


def add_answers(study: Study, path: Path, scan: str, given: dict[str, str], seconds: float) -> None:
    """Keep the answers about one scan.

    Raises:
        ValueError: some are missing, impossible, or were given before.
    """
    questions = allowed(study, scan)
    if given.keys() != questions.keys() or any(v not in questions[k] for k, v in given.items()):
        raise ValueError("every question needs one of its answers")
    answers = read_answers(study, path)
    if any(one.scan == scan for one in answers):
        raise ValueError("this scan was judged already")
    answers += [Answer(scan, k, given[k], round(seconds, 1)) for k in questions]
    write_text(path, csv_table(COLUMNS, map(astuple, answers)))
