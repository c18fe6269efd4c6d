"""Findings of an inspection: which scans have a problem, and what to do. Their texts are in
`findings.toml`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

Severity = Literal["fault", "warning", "note"]
"""`fault`: training would be wrong; `warning`: look at these scans; `note`: good to know."""

SEVERITIES: tuple[Severity, ...] = ("fault", "warning", "note")

_SHOWN = 3  # names of a group, and groups of a finding, in one line of text


@dataclass(frozen=True)
class Group:
    """Scans that belong together in a finding: a pair, copies of one another, or a single scan.

    Attributes:
        remark: more about them, such as a measurement; may be empty.
    """

    names: tuple[str, ...]
    remark: str = ""

    def __str__(self) -> str:
        more = len(self.names) - _SHOWN
        shown = " = ".join(self.names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        return f"{shown} ({self.remark})" if self.remark else shown


@dataclass(frozen=True)
class Finding:
    """One kind of problem.

    Attributes:
        kind: a short name, such as `exact duplicates`.
        text, remedy: what was found, and what to do, in a sentence or two each.
        groups: the scans concerned; empty if all are.
    """

    kind: str
    severity: Severity
    text: str
    remedy: str
    groups: tuple[Group, ...] = ()

    @property
    def first_sentence(self) -> str:
        """The first sentence of what was found."""
        return self.text.partition(". ")[0].removesuffix(".") + "."

    def __str__(self) -> str:
        shown = "; ".join(map(str, self.groups[:_SHOWN]))
        more = len(self.groups) - _SHOWN
        names = f" {shown}" + (f"; and {more} more" if more > 0 else "") if shown else ""
        return f"{self.severity}: {self.kind}: {self.text}{names}"

    def as_json(self) -> dict[str, Any]:
        """The finding in findings.json."""
        groups = [{"scans": list(group.names), "remark": group.remark} for group in self.groups]
        return {**vars(self), "groups": groups}


def finding(key: str, groups: Iterable[Group] = (), **values: object) -> Finding:
    """The finding whose text is `key` in `findings.toml`, with `values` filled in."""
    entry = _texts()[key]
    text, remedy = (entry[part].format(**values) for part in ("text", "remedy"))
    return Finding(entry["kind"], entry["severity"], text, remedy, tuple(groups))


@cache
def _texts() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("findings.toml").read_text("utf-8"))
