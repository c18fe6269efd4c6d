"""Stores and runs have one writer at a time."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from mrbridge.dataset.store import Store
from mrbridge.errors import OutputError
from mrbridge.io import lock, temporary
from mrbridge.io.lock import LOCK, STALE_SECONDS, only_writer
from mrbridge.io.remote import path_of

Run = Callable[..., tuple[int, str, str]]

HOLD = (
    "import sys\nfrom pathlib import Path\nfrom mrbridge.io.lock import only_writer\n"
    "with only_writer(Path(sys.argv[1])):\n    print('held', flush=True)\n    input()\n"
)


def hold(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_writer_learns_who_the_first_is(
    run: Run, bids_scans: Path, small_store: Store, tmp_path: Path
) -> None:
    commands = {
        tmp_path / "store": ("prepare", bids_scans, "-o", tmp_path / "store"),
        tmp_path / "run": ("train", small_store.path, "-o", tmp_path / "run"),
    }
    for folder, command in commands.items():
        first = hold(folder)
        try:
            code, _, err = run(*command)
            assert code == 2
            assert f"(process {first.pid} on {socket.gethostname()})" in err
            assert len(err.strip().splitlines()) == 1
        finally:
            first.communicate("\n")
        assert not (folder / LOCK).exists()


def test_two_prepares_at_once_leave_a_whole_store(bids_scans: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mrbridge", "prepare", str(bids_scans), "-o", str(tmp_path)]
    extra = ["--set", "standard.spacing_mm=2"]
    both = [subprocess.Popen([*command, *more], stderr=subprocess.PIPE) for more in ([], extra)]
    codes = sorted(process.wait(120) for process in both)
    assert codes in ([0, 0], [0, 2])  # one after the other, or only one
    store = Store.open(tmp_path)
    for record in store.records():
        store.slices(record)


def test_a_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    first = hold(tmp_path)
    first.kill()
    first.wait()
    assert (tmp_path / LOCK).exists()
    with only_writer(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path) == []
    # Another process has its number by now.
    holder = {"pid": os.getpid(), "machine": temporary.this_machine(), "start": 1, "host": "here"}
    (tmp_path / LOCK).write_text(json.dumps(holder))
    with only_writer(tmp_path):
        pass


@pytest.mark.parametrize("is_locked", [True, False])
def test_a_process_that_is_killed_as_it_takes_a_lock_over(is_locked: bool, tmp_path: Path) -> None:
    first = hold(tmp_path)
    first.kill()
    first.wait()
    takeover = tmp_path / f"{LOCK}-takeover"
    takeover.write_bytes((tmp_path / LOCK).read_bytes())
    if not is_locked:
        (tmp_path / LOCK).unlink()
    with only_writer(tmp_path):
        assert os.listdir(tmp_path) == [LOCK]
    # Another computer is taking it over.
    takeover.write_text(json.dumps(HOLDER))
    with only_writer(tmp_path):
        assert takeover.exists()


@pytest.mark.parametrize("text", ['{"host": "node7", "pid": 3, "machine": "abcdef"}', "", "[1]"])
def test_a_lock_of_another_computer_counts_while_it_is_fresh(text: str, tmp_path: Path) -> None:
    path = tmp_path / LOCK
    path.write_text(text)
    with pytest.raises(Exception, match="is being written by another"), only_writer(tmp_path):
        pass
    assert os.listdir(tmp_path) == [LOCK]
    past = time.time() - STALE_SECONDS - 5
    os.utime(path, (past, past))
    with only_writer(tmp_path):
        pass


HOLDER = {"host": "node7", "pid": 3, "machine": "abcdef", "start": 1}
"""Of a lock, on another computer."""


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


def test_a_store_at_a_url(memory: Any, run: Run, bids_scans: Path) -> None:
    command = ("prepare", bids_scans, "-o", "memory://cloud/store")
    key = f"/cloud/store/{LOCK}"
    memory.pipe_file(key, json.dumps(HOLDER | {"since": time.time()}).encode())
    code, _, err = run(*command)
    assert code == 2
    assert "is being written by another mrbridge (process 3 on node7)" in err
    assert err.count("\n") == 1
    assert memory.find("/cloud/store") == [key]
    # One that was killed, elsewhere or here.
    for dead in (
        {"since": time.time() - STALE_SECONDS - 5},
        {"since": time.time(), "machine": temporary.this_machine(), "pid": os.getpid()},
    ):
        memory.rm("/cloud/store", recursive=True)
        memory.pipe_file(key, json.dumps(HOLDER | dead).encode())
        code, _, err = run(*command)
        assert code == 0, err
        assert not memory.exists(key)
        assert memory.exists("/cloud/store/manifest.json")


def test_the_holder_at_a_url_writes_its_lock_again(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_BEAT_SECONDS", 0.01)
    key = f"/cloud/store/{LOCK}"
    with only_writer(Path(path_of("memory://cloud/store"))):
        first = json.loads(memory.cat_file(key))
        end = time.monotonic() + 10
        while json.loads(memory.cat_file(key) or b"{}").get("since", 0) <= first["since"]:
            assert time.monotonic() < end
            time.sleep(0.01)
        with (
            pytest.raises(OutputError, match=f"process {os.getpid()} on"),
            only_writer(Path(path_of("memory://cloud/store"))),
        ):
            pass
    assert not memory.exists(key)


def test_a_kind_of_url_that_cannot_create_only(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = type(memory).pipe_file

    def pipe_file(self: Any, path: str, value: bytes) -> None:
        write(self, path, value)

    monkeypatch.setattr(type(memory), "pipe_file", pipe_file)
    place = Path(path_of("memory://cloud/store"))
    with only_writer(place), pytest.raises(OutputError, match="by another"), only_writer(place):
        pass
    assert not memory.exists(f"/cloud/store/{LOCK}")


def test_the_holder_touches_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_BEAT_SECONDS", 0.01)
    with only_writer(tmp_path):
        os.utime(tmp_path / LOCK, (1, 1))
        end = time.monotonic() + 10
        while (tmp_path / LOCK).stat().st_mtime < 2:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_another_container_is_another_computer(tmp_path: Path) -> None:
    """A file of a live process with our number in another space of processes stays."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mine = tmp_path / f".~{temporary.this_machine()}-{gone.pid}.7-00000001.nii"
    theirs = tmp_path / f".~abcdef-{gone.pid}.7-00000002.nii"
    reused = tmp_path / f".~{temporary.this_machine()}-{os.getppid()}.1-00000003.nii"
    for path in (mine, theirs, reused):
        path.touch()
    temporary.sweep(tmp_path)
    assert os.listdir(tmp_path) == [theirs.name]
