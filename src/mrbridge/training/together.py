"""One training on several devices of this machine: a process for each.

On several machines, `torchrun` starts the processes; what they do is the same.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from mrbridge import console
from mrbridge.children import safe_path
from mrbridge.errors import Interrupted, MrbridgeError
from mrbridge.hardware import keep_memory
from mrbridge.threads import for_new_processes, is_count_given
from mrbridge.training.ranks import MEETING
from mrbridge.training.run import Run, train
from mrbridge.unexpected import as_error

_GRACE_SECONDS = 5


def train_together(devices: int, store: Path, out: Path, **options: Any) -> Run:
    """Train on several devices: `training.run.train` in as many processes.

    Each takes `batch_size` slices of its own, so that a step sees `devices` times as many.

    Args:
        devices: how many processes; on CUDA each has a device of its own.
        store: as for `train`, by its path.
        out: likewise.
        options: the others of `train`.

    Raises:
        MrbridgeError: what `train` raises, or a process was killed.
    """
    context = multiprocessing.get_context("spawn")
    processes: list[BaseProcess] = []
    answers: list[Connection] = []
    with tempfile.TemporaryDirectory() as folder, _signals_passed_on(processes) as asked:
        for rank in range(devices):
            ours, theirs = context.Pipe(duplex=False)
            place = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(devices),
                MEETING: f"file://{folder}/meeting",  # no port is opened for it
            }
            process: BaseProcess = context.Process(
                target=_take_part, args=(place, console.said, theirs, store, out, options)
            )
            with for_new_processes(), safe_path():
                process.start()
            theirs.close()
            processes.append(process)
            answers.append(ours)
        try:
            return _first_answer(answers, asked)
        finally:
            for process in processes:
                process.join(_GRACE_SECONDS)
            for process in processes:
                process.kill()
                process.join()


def _first_answer(answers: Sequence[Connection], asked: list[int]) -> Run:
    """What the first process gives, or the first error of any."""
    open_ones = list(answers)
    run: Run | None = None
    while open_ones:
        for answer in wait(open_ones):
            assert isinstance(answer, Connection)
            open_ones.remove(answer)
            try:
                told = answer.recv()
            except EOFError:
                if asked:
                    raise Interrupted(
                        "stopped before it had begun", remedy="Begin again, or --resume."
                    ) from None
                raise MrbridgeError(
                    "a process of the training was killed, most often for lack of memory",
                    remedy="Go on with --resume.",
                ) from None
            if isinstance(told, MrbridgeError):
                raise told
            if answer is answers[0]:
                run = told
    assert run is not None
    return run


def _take_part(
    place: dict[str, str],
    said: console.Verbosity,
    answer: Connection,
    store: Path,
    out: Path,
    options: dict[str, Any],
) -> None:
    """Train as one of several processes, on its share of the cores; only the first speaks."""
    os.environ.update(place)
    if not is_count_given():
        torch.set_num_threads(max(1, torch.get_num_threads() // int(place["WORLD_SIZE"])))
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    keep_memory()
    console.set_up()
    console.listen(said.quiet or place["RANK"] != "0", said.verbose, said.json)
    try:
        told: Run | MrbridgeError = train(store, out, **options)
    except KeyboardInterrupt:
        told = Interrupted("stopped before it had begun", remedy="Begin again, or --resume.")
    except Exception as error:
        told = as_error(error)
    answer.send(told)


@contextmanager
def _signals_passed_on(processes: list[BaseProcess]) -> Iterator[list[int]]:
    """Within it, signals go on to the processes, as SIGTERM: those of a terminal reach them by
    themselves as well.

    Yields:
        The signals that came.
    """
    asked: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        asked.append(number)
        for process in processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGTERM)

    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, pass_on),
        signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on),
    }
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
