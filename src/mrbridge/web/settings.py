"""The settings of `serve`. Importing them takes no PyTorch."""

from __future__ import annotations

from pydantic import Field

from mrbridge.settings import Settings


class Address(Settings):
    """Where a page is served."""

    host: str = Field(
        "127.0.0.1",
        description="Address to listen on. Any other than this machine's own lets others in the "
        "network connect; they need the token of the printed URL.",
    )
    port: int = Field(8000, ge=0, le=65535, description="Port; 0 chooses a free one.")


class ServeSettings(Address):
    """Where the page is served, and how much it accepts."""

    jobs: int = Field(20, ge=1, description="The most scans that are kept at the same time.")
    waiting: int = Field(8, ge=1, description="The most scans that wait for the worker.")
    upload_mib: int = Field(
        2048, ge=1, description="The most MiB of one upload, and of what a zip in it unpacks to."
    )
    total_mib: int = Field(8192, ge=1, description="The most MiB of all uploads and results.")
    keep_minutes: float = Field(
        60, gt=0, description="Time after which uploads and results are removed."
    )
