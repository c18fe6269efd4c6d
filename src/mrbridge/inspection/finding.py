"""What is wrong, or worth knowing, with which scans, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["fault", "warning", "note"]
"""`fault`: training on it would be wrong; `warning`: look at it; `note`: good to know."""

_SHOWN = 3  # names of a group, in words

SEVERITIES: tuple[Severity, ...] = ("fault", "warning", "note")


@dataclass(frozen=True)
class Group:
    """Scans that belong together in a finding: a pair, copies of one another, or a single one.

    Attributes:
        names: of the scans.
        remark: what is said of them, such as a measure; may be empty.
    """

    names: tuple[str, ...]
    remark: str = ""

    def words(self) -> str:
        """The first names, how many more, and the remark."""
        more = len(self.names) - _SHOWN
        shown = " = ".join(self.names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        return f"{shown} ({self.remark})" if self.remark else shown


@dataclass(frozen=True)
class Finding:
    """One kind of fault.

    Attributes:
        kind: in few words, such as `exact duplicates`.
        severity: how bad it is.
        text: what was found, a sentence or two.
        remedy: what to do, a sentence or two.
        groups: the scans concerned; none where all are.
    """

    kind: str
    severity: Severity
    text: str
    remedy: str
    groups: tuple[Group, ...] = ()

    @property
    def gist(self) -> str:
        """The first sentence of what was found."""
        return self.text.partition(". ")[0].removesuffix(".") + "."

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "text": self.text,
            "remedy": self.remedy,
            "groups": [{"scans": list(g.names), "remark": g.remark} for g in self.groups],
        }


def by_severity(findings: Sequence[Finding]) -> list[Finding]:
    """The worst first."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
