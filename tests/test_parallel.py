"""One thing to many scans, in any number of processes."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import mrbridge
from mrbridge.errors import InputError, MrbridgeError, MrbridgeWarning
from mrbridge.io.temporary import is_alive
from mrbridge.parallel import map_scans, processes


def work(number: int) -> int:
    if number == 3:
        raise InputError("is three", path="three.nii", remedy="Take four.")
    if number == 4:
        warnings.warn("four.nii: is even", MrbridgeWarning, stacklevel=1)
    time.sleep(0.05 * (number == 0))  # the first is the last to be done
    return number * number


def hungry(number: int) -> int:
    if number == 1:
        raise MemoryError
    return number


class Array:
    """A result that weak references can watch."""


def large(number: int) -> Array:
    return Array()


class Watched(Sequence[int]):
    """Numbers that tell how many of them were taken."""

    def __init__(self, count: int) -> None:
        self.length, self.taken = count, 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        raise NotImplementedError

    def __iter__(self) -> Iterator[int]:
        for number in range(self.length):
            self.taken += 1
            yield number


def surroundings(number: int) -> dict[str, Any]:
    time.sleep(0.2)  # so that both processes get one
    import numpy as np
    import threadpoolctl

    np.ones((2, 2)) @ np.ones((2, 2))
    pools = threadpoolctl.threadpool_info()
    return {"pid": os.getpid(), "threads": {pool["num_threads"] for pool in pools}}


def broken(number: int) -> int:
    return number // 0


def dies_of_three(number: int) -> int:
    if number == 3:
        os._exit(9)
    return number


def dies_once(mark: Path, number: int) -> int:
    if number == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def interrupts_when_repeated(folder: Path, caller: int, number: int) -> int:
    """The first item dies once the second is done, and has the caller interrupted the next time."""
    if number:
        (folder / "done").touch()
        return number
    if not (folder / "dead").exists():
        while not (folder / "done").exists():
            time.sleep(0.01)
        time.sleep(0.5)  # the result arrives
        (folder / "dead").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    os.kill(caller, signal.SIGINT)
    time.sleep(60)
    return number


def says(number: int) -> None:
    logging.getLogger("mrbridge.tests").info("100 %% of %d", number)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_in_order_with_errors_and_warnings(workers: int) -> None:
    with pytest.warns(MrbridgeWarning, match=r"four\.nii: is even"):
        outcomes = list(map_scans(work, range(6), workers=workers, label="Working"))
    assert [item for item, _ in outcomes] == [0, 1, 2, 3, 4, 5]
    results = [result for _, result in outcomes]
    assert results[:3] + results[4:] == [0, 1, 4, 16, 25]
    assert isinstance(results[3], InputError)
    assert str(results[3]) == "three.nii: is three. Take four."


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unforeseen_exception_is_the_error_of_its_item(workers: int) -> None:
    outcomes = list(map_scans(broken, [1, 2], workers=workers, label="Working"))
    assert len(outcomes) == 2
    assert all("(ZeroDivisionError)" in str(error) for _, error in outcomes)


def test_what_kills_every_process_is_reported_and_the_others_are_done() -> None:
    outcomes = list(map_scans(dies_of_three, range(9), workers=2, label="Working"))
    assert [item for item, _ in outcomes] == list(range(9))
    killed = outcomes.pop(3)[1]
    assert isinstance(killed, MrbridgeError)
    assert "3 processes were killed" in killed.what
    assert all(result == item for item, result in outcomes)


def test_a_process_killed_once_changes_nothing(tmp_path: Path) -> None:
    work = partial(dies_once, tmp_path / "died")
    outcomes = list(map_scans(work, range(9), workers=2, label="Working"))
    assert outcomes == [(number, number * number) for number in range(9)]
    assert (tmp_path / "died").exists()


def test_results_survive_an_interruption_while_a_killed_item_is_repeated(tmp_path: Path) -> None:
    results: list[tuple[int, int | MrbridgeError]] = []
    with pytest.raises(KeyboardInterrupt):
        results.extend(
            map_scans(
                partial(interrupts_when_repeated, tmp_path, os.getpid()),
                range(2),
                workers=2,
                label="x",
            )
        )
    assert results == [(1, 1)]


def test_logs_of_other_processes_are_repeated(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="mrbridge"):
        list(map_scans(says, [1, 2], workers=2, label="Working"))
    assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records] == [
        ("mrbridge.tests", "INFO", "100 % of 1"),
        ("mrbridge.tests", "INFO", "100 % of 2"),
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_to_do(workers: int) -> None:
    assert list(map_scans(work, [], workers=workers, label="Working")) == []


def test_results_do_not_pile_up() -> None:
    items, alive = Watched(60), weakref.WeakSet[Array]()
    for done, (item, result) in enumerate(map_scans(large, items, workers=2, label="Working")):
        assert item == done
        assert items.taken <= done + 10, "no more than a few are handed out ahead"
        assert isinstance(result, Array)
        alive.add(result)
        del result
        assert len(alive) <= 1, "what was taken is kept"
    assert done == 59


def test_what_is_not_wanted_any_more_is_not_done() -> None:
    items = Watched(10_000)
    outcomes = map_scans(large, items, workers=2, label="Working")
    assert next(outcomes)[0] == 0
    outcomes.close()  # type: ignore[attr-defined]
    assert items.taken < 20


def test_processes_side_by_side_have_one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    outcomes = map_scans(surroundings, [1, 2], workers=2, label="Working", imports=["numpy"])
    answers = [result for _, result in outcomes]
    results = [one for one in answers if isinstance(one, dict)]
    assert [one["threads"] for one in results] == [{1}, {1}]
    assert len({one["pid"] for one in results} | {os.getpid()}) == 3


def idle(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(60)


def test_processes_end_with_the_one_that_hands_out_the_work(tmp_path: Path) -> None:
    code = f"""
from mrbridge.parallel import map_scans, processes
from tests.test_parallel import idle
if __name__ == "__main__":
    list(map_scans(idle, [{str(tmp_path)!r}] * 2, workers=2, label="idle"))
"""
    script = tmp_path.with_suffix(".py")
    script.write_text(code)
    root = Path(__file__).parents[1]
    source = Path(mrbridge.__file__).parents[1]
    paths = os.pathsep.join([str(source), str(root)])
    main = subprocess.Popen([sys.executable, script], env={**os.environ, "PYTHONPATH": paths})

    def eventually(true: Callable[[], bool]) -> bool:
        end = time.monotonic() + 60
        while not true() and time.monotonic() < end:
            time.sleep(0.1)
        return true()

    assert eventually(lambda: len(list(tmp_path.iterdir())) == 2)
    main.kill()
    main.wait()
    pids = [int(path.name) for path in tmp_path.iterdir()]

    def ended() -> bool:
        return not any(is_alive(pid) for pid in pids)

    assert eventually(ended)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_needs_too_much_memory_does_not_stop_the_others(workers: int) -> None:
    results = [result for _, result in map_scans(hungry, [0, 1, 2], workers=workers, label="x")]
    assert [results[0], results[2]] == [0, 2]
    assert isinstance(results[1], MrbridgeError)
    assert "more memory than is available" in str(results[1])


@pytest.mark.parametrize("count", [1, 2])
def test_processes_that_start_afresh(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """As on Windows and macOS, which have no fork servers: nothing is inherited."""
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    started = processes._context([])
    assert started.get_start_method() == "spawn"
    results = list(map_scans(work, [1, 3][:count], workers=2, label="x"))
    assert results[0] == (1, 1)
    assert count == 1 or "is three" in str(results[1][1])
