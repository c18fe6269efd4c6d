"""A server that runs verbs in forks of itself and kills them.

Python with PyTorch takes seconds to start, so this process imports everything once; a fork takes
milliseconds. A job is a line of JSON on standard input, its outcome a line on standard output:

    {"verb": "prepare", "arguments": {...}, "instant": 12, "delay": null}

`instant` kills before or after the n-th call that changes files, so that every window is met;
`delay` kills that many seconds after the verb began, at whatever it is doing then.
"""  # fmt: skip

from __future__ import annotations

import builtins
import io
import itertools
import json
import os
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

CALLS = ("replace", "rename", "fsync", "unlink", "remove", "mkdir", "rmdir", "link")
"""Functions of `os` that change files; with `open` for writing, what a verb can be killed at."""


def prepare(source: str, out: str) -> None:
    """The verb `prepare`."""
    from mrbridge.dataset import prepare

    prepare.prepare(source, out)


def translate(model: str, image: str, out: str) -> None:
    """The verb `translate`."""
    from mrbridge.inference.translate import translate

    translate(image, out, model=model, device="cpu")


def train(store: str, out: str, start: str, settings: dict[str, Any]) -> None:
    """The verb `train`, which continues a run if there is one."""
    from mrbridge.dataset import loader
    from mrbridge.training.run import train
    from mrbridge.training.settings import resolve

    loader._SPARE_FROM = 10**9  # no process of its own for batches
    if Path(out, "checkpoints", "last.ckpt").exists():
        train(store, out, resume=True, device="cpu")
    else:
        train(store, out, resolve({"preset": "unet"}, settings), device="cpu", start=start)


def count_steps() -> None:
    """Let trainings take one second a step, so that those of a given time are reproducible."""
    from mrbridge.dataset import loader
    from mrbridge.training import loop

    loader._SPARE_FROM = 10**9  # no process of its own for batches
    clock = itertools.count()
    loop.time = SimpleNamespace(monotonic=lambda: float(next(clock)))  # type: ignore[assignment]


def benchmark(store: str, out: str, arms: dict[str, Any], steps: int) -> None:
    """The verb `benchmark`, which continues a benchmark if there is one."""
    from mrbridge.benchmarking.benchmark import benchmark

    count_steps()
    benchmark(store, out, arms, minutes=steps / 60, seeds=1, start="scratch", device="cpu")


def tune(store: str, out: str, settings: dict[str, Any], steps: int, trials: int) -> None:
    """The verb `tune`, which continues a search if there is one."""
    from mrbridge.tuning.tune import tune

    count_steps()
    space = {"learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}}
    more: dict[str, Any] = {"minutes": steps / 60, "start": "scratch", "device": "cpu"}
    tune(store, out, settings, space=space, trials=trials, score="psnr", **more)


VERBS: dict[str, Callable[..., None]] = {
    one.__name__: one for one in (prepare, translate, train, benchmark, tune)
}


class Instants:
    """Counts the calls that change files below a folder; kills this process at the n-th."""

    def __init__(self, folder: str, last: int | None) -> None:
        self.folder, self.last, self.count = folder, last, 0
        self._lock = threading.Lock()

    def watch(self) -> None:
        """Put a counter around every such call."""
        for name in CALLS:
            setattr(os, name, self._counted(getattr(os, name)))
        shutil.rmtree = self._counted(shutil.rmtree)
        builtins.open = io.open = self._counted(io.open, is_open=True)

    def _counted(self, function: Any, is_open: bool = False) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            mode = str(options.get("mode", arguments[1] if len(arguments) > 1 else "r"))
            reads = is_open and not set(mode) & set("wxa+")
            mine = isinstance(arguments[0], int) or str(arguments[0]).startswith(self.folder)
            if reads or not mine:
                return function(*arguments, **options)
            self._tick()
            result = function(*arguments, **options)
            self._tick()
            return result

        return call

    def _tick(self) -> None:
        with self._lock:
            self.count += 1
            if self.count == self.last:
                os.kill(os.getpid(), signal.SIGKILL)


def run(job: dict[str, Any], answer: int, ready: int) -> None:
    """In the fork: run the verb and tell how it went."""
    # Next to `out`, where the folder that replaces it is written.
    instants = Instants(str(Path(job["arguments"]["out"]).parent), job.get("instant"))
    instants.watch()
    result: dict[str, Any] = {"ended": "done"}
    os.write(ready, b"!")
    began = time.monotonic()
    if job.get("file_size") is not None:
        # As on a full disk, writing fails in the middle of a file.
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_size"], resource.RLIM_INFINITY))
    try:
        VERBS[job["verb"]](**job["arguments"])
    except BaseException as error:
        code = getattr(error, "exit_code", None)
        result = {
            "ended": "failed",
            "error": str(error),
            "kind": type(error).__name__,
            "code": code,
        }
        result["trace"] = traceback.format_exc()
    result |= {"seconds": time.monotonic() - began, "instants": instants.count}
    os.write(answer, json.dumps(result).encode())
    os._exit(0)


def serve() -> None:
    """Do jobs until standard input ends."""
    import torch
    import zarr  # noqa: F401

    import mrbridge.benchmarking.benchmark
    import mrbridge.dataset.prepare
    import mrbridge.inference.translate
    import mrbridge.training.run

    if find_spec("optuna"):
        import mrbridge.tuning.tune  # noqa: F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        answered, answer = os.pipe()
        begun, ready = os.pipe()
        pid = os.fork()
        if pid == 0:
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            run(job, answer, ready)
        os.close(answer)
        os.close(ready)
        os.read(begun, 1)
        if job.get("delay") is not None:
            time.sleep(job["delay"])
            os.kill(pid, signal.SIGKILL)
        with os.fdopen(answered, "rb") as stream:
            result = json.loads(stream.read() or b'{"ended": "killed"}')
        os.close(begun)
        os.waitpid(pid, 0)
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
