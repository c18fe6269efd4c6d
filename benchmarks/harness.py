"""What all benchmarks share: taking turns, fresh processes, and one JSON line that tells all.

Rivals run in turn (A, B, A, B, …), so that a machine that grows hot or busy slows all of them
alike, in this process or each in one of its own; figures are medians. Seconds are of a monotonic
clock. Memory is the peak of the resident set of a fresh process, in GiB.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import torch

from mrbridge.hardware import fast_bfloat16, vector_extension

Result = TypeVar("Result")

_PACKAGES = ("mrbridge", "torch", "numpy", "onnxruntime")

_LAUNCHER = """
import json, os, sys, time
began = time.perf_counter()
child = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, used = os.wait4(child, 0)
cpu = used.ru_utime + used.ru_stime
result = [time.perf_counter() - began, cpu, used.ru_maxrss, os.waitstatus_to_exitcode(status)]
with open(int(sys.argv[1]), "w") as report:
    json.dump(result, report)
"""


@dataclass(frozen=True)
class Timing:
    """How long one rival took.

    Attributes:
        seconds: of each counted call.
        first: of the very first one, which is not counted where there was a warm-up: it pays for
            caches, compilation and memory.
    """

    seconds: list[float]
    first: float

    @property
    def median(self) -> float:
        """Of the counted calls, in seconds."""
        return statistics.median(self.seconds)

    def figures(self, per: int = 1) -> dict[str, float]:
        """Median, least and most, divided by `per` things done in a call, for the JSON line."""
        return {
            "seconds": self.median / per,
            "seconds_min": min(self.seconds) / per,
            "seconds_max": max(self.seconds) / per,
            "seconds_first": self.first / per,
        }


@dataclass(frozen=True)
class Finished:
    """A command that ran in a fresh process.

    Attributes:
        seconds: from its start to its end.
        cpu_seconds: of processors, its own and its children's.
        peak_gib: most memory that it, or any one of its children, held resident.
        output: what it wrote to standard output.
        errors: what it wrote to standard error.
    """

    seconds: float
    cpu_seconds: float
    peak_gib: float
    output: str
    errors: str


def in_turn(
    rivals: Mapping[str, Callable[[], Result]], repeats: int, warm_up: int
) -> dict[str, list[Result]]:
    """Call every rival in turn, `warm_up + repeats` times each.

    Returns:
        All results of each, those of the warm-up first.
    """
    results: dict[str, list[Result]] = {name: [] for name in rivals}
    for _ in range(warm_up + repeats):
        for name, call in rivals.items():
            results[name].append(call())
    return results


def alternate(
    rivals: Mapping[str, Callable[[], object]],
    repeats: int,
    warm_up: int,
    device: torch.device | None = None,
) -> dict[str, Timing]:
    """Time every rival in turn; on a CUDA device until its work is done."""

    def timed(call: Callable[[], object]) -> float:
        began = time.perf_counter()
        call()
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    calls = {name: partial(timed, call) for name, call in rivals.items()}
    results = in_turn(calls, repeats, warm_up)
    return {name: Timing(seconds[warm_up:], seconds[0]) for name, seconds in results.items()}


class OwnProcess:
    """A rival for `alternate` that lives in a process of its own, and waits there for its turn.

    What one rival does to memory and caches of its process then cannot help or hinder another.

    Args:
        make: makes what is called; picklable, defined in a module.
        device: waited for, if it is a CUDA device, before a call counts as done.
    """

    def __init__(self, make: Callable[[], Callable[[], object]], device: torch.device) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, device), daemon=True)
        self._process.start()
        theirs.close()

    def __call__(self, times: int = 1) -> None:
        """Call it `times` times, and wait.

        Raises:
            RuntimeError: the process failed; the reason is on standard error.
        """
        try:
            self._pipe.send(times)
            self._pipe.recv()
        except (EOFError, BrokenPipeError):
            raise RuntimeError("a rival's process has ended") from None

    def close(self) -> dict[str, float]:
        """End the process; the most memory that it held, and its share of a CUDA device's."""
        self._pipe.send(0)
        peaks: dict[str, float] = self._pipe.recv()
        self._process.join()
        return peaks


def _serve(
    pipe: Connection, make: Callable[[], Callable[[], object]], device: torch.device
) -> None:
    call = make()
    while times := pipe.recv():
        for _ in range(times):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        pipe.send(None)
    peaks = {"peak_memory_gib": _peak_gib()}
    if device.type == "cuda":
        peaks["peak_device_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    pipe.send(peaks)


def _peak_gib() -> float:
    """Most memory that this process ever held resident, in GiB."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30
    # Not ru_maxrss, which begins with that of the process that started this one.
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 2**30


def run_command(command: Sequence[str | Path], code: int = 0) -> Finished:
    """Run a command, its program named by its whole path, in a fresh process.

    A small launcher stands between: Linux lets a child begin with the peak memory of the process
    that started it, and this one holds libraries and networks.

    Raises:
        RuntimeError: it ended with another exit code than `code`.
    """
    read_end, write_end = os.pipe()
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(write_end)]
    done = subprocess.run(
        [*launcher, *map(str, command)],
        capture_output=True,
        text=True,
        pass_fds=[write_end],
        check=False,
    )
    os.close(write_end)
    with open(read_end) as report:
        result = report.read()
    seconds, cpu, peak, ended = json.loads(result) if result else (0, 0, 0, None)
    if ended != code:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit code {ended}\n{done.stderr}")
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, KiB on Linux
    return Finished(seconds, cpu, peak * unit / 2**30, done.stdout, done.stderr)


def alternate_commands(
    commands: Mapping[str, Callable[[], Finished]], repeats: int, warm_up: int
) -> dict[str, dict[str, float]]:
    """Run whole commands in turn; seconds and peak memory of each for the JSON line."""
    figures: dict[str, dict[str, float]] = {}
    for name, done in in_turn(commands, repeats, warm_up).items():
        timing = Timing([one.seconds for one in done[warm_up:]], done[0].seconds)
        figures[name] = timing.figures() | {"peak_memory_gib": max(one.peak_gib for one in done)}
    return figures


def mrbridge_command(*arguments: str | Path) -> list[str]:
    """The command `mrbridge …` of this environment."""
    return [sys.executable, "-m", "mrbridge.cli", *map(str, arguments)]


def options(
    description: str | None, repeats: int | None = None, warm_up: int = 1
) -> argparse.ArgumentParser:
    """A parser of what all benchmarks understand; without `repeats` nothing is repeated."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    if repeats is not None:
        parser.add_argument("--repeats", type=int, default=repeats, help="counted calls of each")
        parser.add_argument("--warm-up", type=int, default=warm_up, help="calls before these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only shows that it runs")
    parser.add_argument("--out", type=Path, help="also append the JSON line to this file")
    return parser


def measure_scans(
    description: str | None,
    subjects: int,
    simulated: Callable[[int, float | None], None],
    session: Callable[[Path], None],
) -> None:
    """Read the command line of a measurement on simulated heads and on real scans, and do it.

    Args:
        description: of the script.
        subjects: how many are simulated by default.
        simulated: measures that many subjects, with slices of that thickness in mm.
        session: measures a folder of the scans of one session.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--subjects", type=int, default=subjects)
    parser.add_argument("--thickness", type=float, default=None, help="mm of the slices [2]")
    parser.add_argument("--sessions", type=Path, nargs="*", default=[])
    given = parser.parse_args()
    simulated(given.subjects, given.thickness)
    for folder in given.sessions:
        session(folder)


def read(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, **quick: Any
) -> argparse.Namespace:
    """The options that were given; with `--quick`, those of `quick` are the defaults."""
    if parser.parse_args(arguments).quick:
        parser.set_defaults(**quick)
    return parser.parse_args(arguments)


def report(name: str, given: argparse.Namespace, figures: Mapping[str, Any]) -> None:
    """Print one JSON line: the benchmark, where and with what it ran, and its figures."""
    asked = {key: value for key, value in vars(given).items() if key != "out"}
    date = datetime.now(UTC).isoformat(timespec="seconds")
    keep_line({"benchmark": name, "date": date, "options": asked, **_rounded(figures)}, given.out)


def keep_line(line: Mapping[str, Any], out: Path | None) -> None:
    """Print a line with the machine and versions, and append it to a file if one is named."""
    text = json.dumps({**line, "machine": machine(), "versions": versions()}, default=str)
    print(text, flush=True)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def machine() -> dict[str, Any]:
    """What it runs on: processor, cores that may be used, threads, memory, instructions that
    may be used, bfloat16, GPU."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    return {
        "processor": _processor(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "instructions": vector_extension(),
        "bfloat16": fast_bfloat16(torch.device("cpu")),
        "gpu": gpu,
        "system": platform.platform(terse=True),
    }


def versions() -> dict[str, str]:
    """Python's version and those of the installed packages that matter."""
    result = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            result[package] = version(package)
        except PackageNotFoundError:
            continue
    return result | {"torch": str(torch.__version__)}  # which also says how it was built


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    pairs = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {key.strip(): value.strip() for key, value in pairs.items()}
    name = facts.get("model name", platform.machine())
    return f"{name} (family {facts.get('cpu family')}, model {facts.get('model')})"


def _rounded(value: Any) -> Any:
    """Floats to five significant digits: more is noise."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return value
