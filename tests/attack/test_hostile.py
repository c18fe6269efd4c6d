"""A part of the hostile inputs, and a check that a broken promise is found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.attack import hostile
from tests.faults.table import Outcome, Workshop

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> tuple[int, list[dict[str, object]]]:
    """Run the script: (exit code, what it found and counted)."""
    command = [sys.executable, "-m", "tests.attack.hostile", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_a_share() -> None:
    code, lines = run("--seed", "7", "--cases", "1", "--minutes", "10")
    assert code == 0, lines
    assert lines == [{"cases": dict.fromkeys(hostile.GENERATORS, 1), "found": 0}]


@pytest.mark.nightly
def test_a_minute() -> None:
    code, lines = run("--seed", "8", "--cases", "90", "--minutes", "1")
    assert code == 0, lines


@pytest.mark.parametrize(
    ("result", "what"),
    [
        (
            Outcome(2, "", "Traceback (most recent call last):\nKeyError: 1\n"),
            "an unexpected error",
        ),
        (
            Outcome(2, "", "error: mrbridge 1 failed unexpectedly (KeyError).\n"),
            "an unexpected error",
        ),
        (Outcome(2, "", "error: a\nb\n"), "a refusal that is not one line"),
        (Outcome(2, "", ""), "a refusal that is not one line"),
        (Outcome(130, "", ""), "exit code 130"),
    ],
)
def test_a_broken_promise_is_found(result: Outcome, what: str, tmp_path: Path) -> None:
    assert hostile.broken(result, {}, tmp_path) == what


def test_changes_and_strays_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(self: Workshop, *_: object) -> Outcome:
        (self.folder / "in" / "config.yaml").write_text("changed")
        (self.folder / "stray").touch()
        return Outcome(0, "", "")

    monkeypatch.setattr(Workshop, "run", careless)
    (found,) = hostile.attack("settings", 0, 0)
    assert "config.yaml" in found["broken"]
    assert "stray" in found["broken"]


def test_a_case_is_the_same_again(tmp_path: Path) -> None:
    import numpy as np

    for name in ("tables", "settings", "png"):
        made = []
        for folder in (tmp_path / f"{name}-1", tmp_path / f"{name}-2"):
            folder.mkdir()
            hostile.GENERATORS[name](np.random.default_rng(3), folder)
            made.append(hostile.tree(folder))
        assert made[0] == made[1]
