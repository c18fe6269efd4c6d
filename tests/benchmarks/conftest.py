"""The benchmarks are scripts that import one another: their folder must be on the path."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    """A benchmark's module by name: `script("train_step")`."""
    if str(BENCHMARKS) not in sys.path:
        sys.path.append(str(BENCHMARKS))  # last, so that a script's name hides no package
    return import_module


@pytest.fixture
def run_script(
    script: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[dict[str, Any]]]:
    """Run a benchmark in this process; its JSON lines: `run_script("prepare", "--quick")`."""

    def run(name: str, *arguments: str) -> list[dict[str, Any]]:
        script(name).main(list(arguments))
        lines = capsys.readouterr().out.splitlines()
        told = [json.loads(line) for line in lines]
        for one in told:
            assert {"benchmark", "date", "machine", "versions", "options"} <= set(one)
            assert one["machine"]["cores"] >= 1
            assert {"python", "torch", "mrbridge", "numpy"} <= set(one["versions"])
        return told

    return run
