"""The settings of `download`. Importing them takes no HTTP library."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mrbridge.settings import Option, Settings


class DownloadSettings(Settings):
    """What to download, and how to deal with slow, busy or unreachable servers."""

    contrast: Annotated[tuple[str, ...], Option(default="T1w T2w")] = Field(
        ("T1w", "T2w"), min_length=1, description="One or several contrasts."
    )
    subjects: Annotated[tuple[str, ...] | None, Option(default="all")] = Field(
        None, description="One or several subjects, such as 002 012."
    )
    mirror: Annotated[str | None, Option(metavar="URL")] = Field(
        None, description="Another server with the same data."
    )
    dry_run: bool = Field(False, description="Show what would be downloaded, then exit.")
    overwrite: bool = Field(
        False, description="Also download the scans that are in the folder, and replace them."
    )
    workers: int = Field(4, ge=1, le=32, description="Parallel downloads.")
    attempts: int = Field(
        6, ge=1, description="Attempts before a file is given up; each one resumes it."
    )
    first_wait_seconds: float = Field(
        1.0, ge=0, description="Wait after the first failed attempt; it doubles each time."
    )
    longest_wait_seconds: float = Field(
        120.0, ge=0, description="Longest wait; a server that asks for more ends the download."
    )
    timeout_seconds: float = Field(
        60.0, gt=0, description="Silence after which a connection counts as broken."
    )
