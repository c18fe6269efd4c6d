"""A server with archives in the form of the real ones."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.download.server import Served, Server, scan, tar

from mrbridge import cli
from mrbridge.download.fetch import Session
from mrbridge.download.settings import DownloadSettings

TABLE = Path(__file__).with_name("IXI.xls")
"""Five rows in the form of the site's table, invented, written with xlwt 1.3.0."""

QUICK = DownloadSettings(first_wait_seconds=0.001, longest_wait_seconds=5, timeout_seconds=5)
"""Settings with short waits."""

IXI_NAMES = ("IXI002-Guys-0828", "IXI012-HH-1211", "IXI013-HH-1212", "IXI035-IOP-0873")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test can check what fsync protects from, and it takes most of their time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def server() -> Iterator[Server]:
    """A server without files."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def session() -> Iterator[Session]:
    """Connections with short waits."""
    with Session(QUICK) as session:
        yield session


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process: `run("ixi", "-o", "x")` returns (code, out, err)."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli._run(["download", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def ixi(server: Server) -> dict[str, bytes]:
    """The server has the T1w and T2w archives and the table; returns the scans by BIDS path."""
    expected = {}
    for contrast in ("T1", "T2"):
        names = IXI_NAMES if contrast == "T1" else IXI_NAMES[:3]
        scans = {
            name: scan(17 * len(contrast) + n + (contrast == "T2") * 50, (30, 30, 30))
            for n, name in enumerate(names)
        }
        server.files[f"/IXI-{contrast}.tar"] = Served(
            tar({f"{name}-{contrast}.nii.gz": data for name, data in scans.items()})
        )
        for name, data in scans.items():
            label = name[3:6]
            expected[f"sub-{label}/anat/sub-{label}_{contrast}w.nii.gz"] = data
    server.files["/IXI.xls"] = Served(TABLE.read_bytes())
    return expected
