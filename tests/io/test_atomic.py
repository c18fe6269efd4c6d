"""Files stay whole, and no temporary files remain."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mrbridge.errors import InputError, OutputError
from mrbridge.io.atomic import atomic_folder, atomic_path, sha256_of, write_json, write_text
from mrbridge.io.temporary import is_temporary, sweep, this_machine


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "scan.nii.gz"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name.endswith(".nii.gz")
        assert is_temporary(temporary)
        temporary.write_bytes(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert os.listdir(path.parent) == ["scan.nii.gz"]


def test_an_image_is_replaced_together_with_its_sidecar(tmp_path: Path) -> None:
    image, sidecar = tmp_path / "scan.nii.gz", tmp_path / "scan.json"

    def write(content: bytes, maker: Callable[[Path], object]) -> None:
        with atomic_path(image, maker) as temporary:
            temporary.write_bytes(content)

    write(b"old", lambda path: {"size": path.stat().st_size})
    sidecar.chmod(0o600)
    with pytest.raises(ZeroDivisionError):
        write(b"new", lambda path: 1 // 0)
    with pytest.raises(ValueError, match="JSON"):
        write(b"new", lambda path: float("nan"))
    assert (image.read_bytes(), json.loads(sidecar.read_text())) == (b"old", {"size": 3})
    write(b"newer", lambda path: {"size": path.stat().st_size})
    assert (image.read_bytes(), json.loads(sidecar.read_text())) == (b"newer", {"size": 5})
    assert sidecar.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == ["scan.json", "scan.nii.gz"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs renameat2")
def test_a_folder_is_never_absent_while_it_is_replaced(tmp_path: Path) -> None:
    """A reader that looks without a pause finds the old one or the new one."""
    path = tmp_path / "scan"
    with atomic_folder(path) as temporary:
        (temporary / "0").touch()
    looks = (
        "import os, sys\n"
        "print('ready', flush=True)\n"
        "while not os.path.exists(sys.argv[1] + '/last'):\n"
        "    assert os.path.isdir(sys.argv[1])\n"
    )
    with subprocess.Popen([sys.executable, "-c", looks, path], stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        for number in range(300):
            with atomic_folder(path, flushed=number % 100 == 0) as temporary:
                (temporary / str(number)).touch()
        with atomic_folder(path) as temporary:
            (temporary / "last").touch()
        assert reader.wait(10) == 0
    assert os.listdir(tmp_path) == ["scan"]
    assert os.listdir(path) == ["last"]


def test_a_folder_is_replaced_where_places_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrbridge.io.atomic._exchange", lambda one, other: False)
    for number in range(2):
        with atomic_folder(tmp_path / "scan") as temporary:
            (temporary / str(number)).touch()
    assert os.listdir(tmp_path / "scan") == ["1"]
    assert os.listdir(tmp_path) == ["scan"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_failure_leaves_the_old_file(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    expected = OutputError if error is OSError else error

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error("in the middle")

    with pytest.raises(expected):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "scan.zarr"
    for text in ("old", "new"):
        with atomic_folder(path) as temporary:
            (temporary / text).write_text(text)
    assert os.listdir(path) == ["new"]

    def write_half() -> None:
        with atomic_folder(path) as temporary:
            (temporary / "half").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert os.listdir(path) == ["new"]
    assert os.listdir(tmp_path) == ["scan.zarr"]


def test_very_long_names(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 247 + ".nii.gz")
    write_text(path, "fits")
    assert path.read_text() == "fits"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file, not a folder"):
        write_text(tmp_path / "file" / "a.txt", "x")


def test_json_is_readable_and_finite(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "Größe", "values": [1, 2.5]})
    assert "Größe" in (tmp_path / "a.json").read_text(encoding="utf-8")
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"score": float("nan")})
    assert "Größe" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_sweeping_takes_the_dead_and_spares_the_living(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    living = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        names = {
            "dead": f".~{this_machine()}-{gone.pid}-00000001.nii",
            "recycled": f".~{this_machine()}-{os.getpid()}-00000002.nii",
            "living": f".~{this_machine()}-{living.pid}-00000003.nii",
            "foreign": ".~ffffff-1-00000004.nii",
            "foreign and old": ".~ffffff-1-00000005.nii",
            "not ours": ".hidden",
            "lock": ".~lock.report.odt#",
        }
        for name in names.values():
            (tmp_path / name).touch()
        (tmp_path / f".~{this_machine()}-{gone.pid}-00000006.zarr").mkdir()
        past = time.time() - 2 * 24 * 3600
        os.utime(tmp_path / names["foreign and old"], (past, past))
        with atomic_path(tmp_path / "mine.nii") as temporary:
            temporary.touch()
            sweep(tmp_path)
            assert temporary.exists()
        kept = {"living", "foreign", "not ours", "lock"}
        assert set(os.listdir(tmp_path)) == {names[key] for key in kept} | {"mine.nii"}
    finally:
        living.communicate(b"\n")
    sweep(tmp_path / "absent")


def test_a_kill_at_any_instant_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    program = (
        "import os, signal, sys\n"
        "from mrbridge.io.atomic import atomic_path\n"
        f"with atomic_path({str(tmp_path / 'a.txt')!r}) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=False)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(os.listdir(tmp_path)) == 2
    sweep(tmp_path)
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("first", ["one", "other"])
def test_two_writers_of_one_file(first: str, tmp_path: Path) -> None:
    """Neither sees the other's half; the one that is done last is what is there."""
    path = tmp_path / "scan.nii.gz"
    writers = {name: atomic_path(path) for name in ("one", "other")}
    temporary = {name: writer.__enter__() for name, writer in writers.items()}
    assert temporary["one"] != temporary["other"]
    texts = {"one": "1" * 9, "other": "2" * 9}
    for name, text in texts.items():
        temporary[name].write_text(text)
    last = {"one": "other", "other": "one"}[first]
    for name in (first, last):
        sweep(tmp_path)
        writers[name].__exit__(None, None, None)
        assert path.read_text() == texts[name]
    assert os.listdir(tmp_path) == ["scan.nii.gz"]


def test_checksums(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"content").hexdigest()
    with pytest.raises(InputError, match="absent"):
        sha256_of(tmp_path / "absent")
