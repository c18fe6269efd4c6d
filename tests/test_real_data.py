"""Tests that need real scans say so where there are none."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def pytest_with(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    environment = os.environ | {"MRBRIDGE_TEST_DATA": str(data)}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_the_last_lines_count_what_was_skipped(tmp_path: Path) -> None:
    done = pytest_with(tmp_path, "tests/io/test_bids.py", "-m", "needs_data")
    assert done.returncode == 0, done.stdout + done.stderr
    line = next(line for line in done.stdout.splitlines() if "MRBRIDGE_TEST_DATA" in line)
    assert re.match(r"\d+ tests were skipped because real scans are missing", line)
    assert "CONTRIBUTING.md" in line


def test_a_folder_that_is_named_and_missing_is_an_error(tmp_path: Path) -> None:
    done = pytest_with(tmp_path / "absent", "tests/io/test_bids.py")
    assert done.returncode == 4
    assert "absent is not a folder" in done.stderr
