"""A part of the fuzzing, and a check that the fuzzer finds faults."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("readers.py")
KINDS = ("nifti", "png", "dicom")


def fuzz(tmp_path: Path, *arguments: Any, blind: str = "") -> tuple[int, list[dict[str, Any]]]:
    """Run the script: (exit code, its result for each kind)."""
    start = [str(SCRIPT)]
    if blind:  # with a guard taken out
        run = "runpy.run_path(sys.argv[0], {}, '__main__')"
        code = f"import runpy, sys; sys.argv.pop(0)\n{blind}\n{run}"
        start = ["-c", code, *start]
    done = subprocess.run(
        [sys.executable, *start, *map(str, arguments), "--keep", str(tmp_path / "found")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def check(code: int, results: list[dict[str, Any]], least: int) -> None:
    assert [result["found"] for result in results] == [0] * len(KINDS), results
    assert code == 0
    assert [result["kind"] for result in results] == list(KINDS)
    for result in results:
        assert result["mutants"] >= least
        # Neither are all refused at the door nor do all come through.
        assert 0.3 < result["refused"] / result["mutants"] < 0.95
        assert result["same"] > 0
        assert result["read"] > 0


def test_a_share(tmp_path: Path) -> None:
    check(*fuzz(tmp_path, "--seed", 1, "--seconds", 60, "--mutants", 150, *KINDS), least=150)


@pytest.mark.nightly
def test_a_minute(tmp_path: Path) -> None:
    seconds = 60 / len(KINDS)
    results = fuzz(tmp_path, "--seed", 2, "--seconds", seconds, "--mutants", 10**6, *KINDS)
    check(*results, least=300)


SMALL_BLOCKS = """
import io
import zlib_ng.gzip_ng as z
import mrbridge.io.nifti as n
whole, z.READ_BUFFER_SIZE = io.BufferedReader, 64
io.BufferedReader = lambda raw, size=64: whole(raw, size)
"""
"""Else the small files would be read to their end, where the checksum is, with the first block."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "blind", "wrong"),
    [
        ("nifti", SMALL_BLOCKS + "n._drain = lambda *_: None", "another image"),
        ("png", "import mrbridge.io.image2d as p; p._check_pixels = lambda _: 0", "another image"),
        ("nifti", "import mrbridge.io.nifti as n; n._GZIP_ERRORS = EOFError", "error: "),
    ],
)
def test_a_missing_guard_is_found(kind: str, blind: str, wrong: str, tmp_path: Path) -> None:
    code, (result,) = fuzz(tmp_path, "--seconds", 30, "--mutants", 1200, kind, blind=blind)
    assert code == 1
    assert any(wrong in example["wrong"] for example in result["examples"])
    assert len(list((tmp_path / "found").iterdir())) == result["found"]
