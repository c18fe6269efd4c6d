"""Runs a benchmark in this process and checks the frame of its JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest


@pytest.fixture
def run_script(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[dict[str, Any]]]:
    """Run a speed benchmark; returns its JSON lines: `run_script("prepare", "--quick")`."""

    def run(name: str, *arguments: str) -> list[dict[str, Any]]:
        import_module(f"benchmarks.speed.{name}").main(list(arguments))
        records: list[dict[str, Any]] = []
        for line in capsys.readouterr().out.splitlines():
            record = json.loads(line)
            assert {"benchmark", "date", "machine", "versions", "options"} <= set(record)
            assert record["machine"]["cores"] >= 1
            assert {"python", "torch", "mrbridge", "numpy"} <= set(record["versions"])
            records.append(record)
        return records

    return run
