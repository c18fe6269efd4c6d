"""How a download behaves towards servers that are slow, busy or out of reach."""

from __future__ import annotations

from pydantic import Field

from mrbridge.settings import Settings


class DownloadSettings(Settings):
    """What may be changed about a transfer.

    Attributes:
        workers: files that are transferred side by side.
        attempts: tries in a row that bring no byte, before a file is given up.
        first_wait_seconds: the wait after the first of them; each later one doubles.
        longest_wait_seconds: the longest wait; a server that asks for more ends the transfer.
        timeout_seconds: silence after which a connection counts as broken.
    """

    workers: int = Field(default=4, ge=1, le=32)
    attempts: int = Field(default=6, ge=1)
    first_wait_seconds: float = Field(default=1.0, ge=0)
    longest_wait_seconds: float = Field(default=120.0, ge=0)
    timeout_seconds: float = Field(default=60.0, gt=0)
