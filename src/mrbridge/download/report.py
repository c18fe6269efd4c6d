"""What a download is going to do, and what it did."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from mrbridge.download.folder import in_words
from mrbridge.errors import SomeScansFailed

log = logging.getLogger(__name__)

_NAMED = 20  # failures that are said one by one; --json has all


@dataclass(frozen=True)
class Plan:
    """What would be transferred.

    Attributes:
        title: the data set and its version.
        files: how many files.
        bytes: their size; None where a server does not tell.
        missing_files, missing_bytes: the part of them that is not here yet.
        licence: in the words of the archive.
        kind: what these files are: archives, where they are taken apart on the way.
        note: what else should be known before it begins.
    """

    title: str
    files: int
    bytes: int | None
    missing_files: int
    missing_bytes: int | None
    licence: str
    kind: str = "files"
    note: str = ""

    def announce(self) -> None:
        """Say it before anything begins."""
        log.info("%s", self.in_words())

    def in_words(self) -> str:
        """One line for people."""
        words = f"{self.title}: {self.files} {self.kind}, {in_words(self.bytes)}"
        if self.missing_files < self.files:
            words += f"; to come: {self.missing_files} {self.kind}, {in_words(self.missing_bytes)}"
        return f"{words}. Licence: {self.licence}.{f' {self.note}' if self.note else ''}"


@dataclass(frozen=True)
class Report:
    """What a download did.

    Attributes:
        path: the folder.
        plan: what was planned.
        scans: scans that are whole in the folder now, of those that were wanted.
        failed: what could not be had, with the reason.
        dry_run: nothing was transferred, it was only planned.
    """

    path: str
    plan: Plan
    scans: int
    failed: dict[str, str] = field(default_factory=dict)
    dry_run: bool = False

    def as_json(self) -> dict[str, Any]:
        """Nested plain values."""
        return asdict(self)

    def in_words(self) -> str:
        """What is said at the end."""
        if self.dry_run:
            return self.plan.in_words()
        return f"{self.path}: {self.scans} scans. Licence: {self.plan.licence}."

    def must_be_whole(self) -> None:
        """Say what could not be had, where there is something.

        Raises:
            SomeScansFailed: there is.
        """
        for name, why in islice(self.failed.items(), _NAMED):
            log.error("%s: %s", name, why)
        if self.failed:
            raise SomeScansFailed(
                f"{len(self.failed)} could not be had",
                path=self.path,
                remedy="The same command again tries only what is missing.",
            )
