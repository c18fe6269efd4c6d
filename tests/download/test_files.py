"""A file is whole and checked, or absent; what came of it is not lost."""

from __future__ import annotations

import gzip
import hashlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.download.server import Served, Server, scan

from mrbridge.download import files
from mrbridge.download.files import Expected, check_gzip, fetch
from mrbridge.download.http import Session
from mrbridge.errors import InputError, MrbridgeWarning, OutputError

CONTENT = random.Random(1).randbytes(300_000)


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_a_file_comes_as_it_is(server: Server, session: Session, tmp_path: Path) -> None:
    server.files["/a"] = Served(CONTENT)
    came: list[int] = []
    fetch(session, f"{server.url}/a", tmp_path / "x" / "a", Expected(len(CONTENT)), came.append)
    assert (tmp_path / "x" / "a").read_bytes() == CONTENT
    assert leftovers(tmp_path) == {"a"}
    assert sum(came) == len(CONTENT)


def test_an_empty_file(server: Server, session: Session, tmp_path: Path) -> None:
    server.files["/a"] = Served(b"")
    fetch(session, f"{server.url}/a", tmp_path / "a", Expected(0))
    assert (tmp_path / "a").read_bytes() == b""
    assert leftovers(tmp_path) == {"a"}


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_wrong_checksum_is_tried_once_more(
    server: Server, session: Session, tmp_path: Path, algorithm: str
) -> None:
    digest = hashlib.new(algorithm, CONTENT).hexdigest()
    server.files["/a"] = Served(CONTENT[::-1], headers={"ETag": '"same"'})
    path, expected = tmp_path / "a", Expected(len(CONTENT), algorithm, digest)
    with pytest.raises(InputError, match=f"has the {algorithm.upper()} .* should have {digest}"):
        fetch(session, f"{server.url}/a", path, expected)
    assert len(server.requests) == 2
    assert leftovers(tmp_path) == set()
    server.files["/a"].content = CONTENT
    fetch(session, f"{server.url}/a", path, expected)
    assert path.read_bytes() == CONTENT


def test_a_file_that_changes_on_the_way_starts_anew(
    server: Server, session: Session, tmp_path: Path
) -> None:
    server.files["/a"] = Served(CONTENT, faults=[("change", CONTENT[::-1])])
    came: list[int] = []
    fetch(session, f"{server.url}/a", tmp_path / "a", Expected(), came.append)
    assert (tmp_path / "a").read_bytes() == CONTENT[::-1]
    assert sum(came) == len(CONTENT)


def test_a_file_that_never_rests_is_given_up(
    server: Server, session: Session, tmp_path: Path
) -> None:
    changes = [("change", random.Random(n).randbytes(300_000)) for n in range(9)]
    server.files["/a"] = Served(CONTENT, faults=changes)
    with pytest.raises(InputError, match="changes while it is transferred"):
        fetch(session, f"{server.url}/a", tmp_path / "a", Expected())
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("fault", [("lie", 5000), ("short", 5000)])
def test_lies_about_the_length(
    server: Server, session: Session, tmp_path: Path, fault: tuple[str, int]
) -> None:
    server.files["/a.nii.gz"] = Served(scan(1, (30, 30, 30)), faults=[fault] * 99)
    with pytest.raises(InputError):
        fetch(session, f"{server.url}/a.nii.gz", tmp_path / "a.nii.gz", Expected())
    assert not (tmp_path / "a.nii.gz").exists()


def test_a_listed_size_counts(server: Server, session: Session, tmp_path: Path) -> None:
    server.files["/a"] = Served(CONTENT)
    for size in (len(CONTENT) + 1, len(CONTENT) - 1):
        with pytest.raises(InputError, match=f"has 300000 bytes, its archive lists {size}"):
            fetch(session, f"{server.url}/a", tmp_path / "a", Expected(size))
    assert leftovers(tmp_path) == set()


def test_a_flood_is_cut_off(server: Server, session: Session, tmp_path: Path) -> None:
    server.files["/a"] = Served(CONTENT * 10)
    with pytest.raises(InputError, match="sends more than the 1000 bytes"):
        fetch(session, f"{server.url}/a", tmp_path / "a", Expected(1000))


def test_a_text_that_s3_proves_may_differ_from_the_list(
    server: Server, session: Session, tmp_path: Path
) -> None:
    md5 = hashlib.md5(CONTENT).hexdigest()
    server.files["/a"] = Served(CONTENT, {"ETag": f'"{md5}"', "x-amz-request-id": "1"})
    with pytest.warns(MrbridgeWarning, match="its archive lists 299999"):
        fetch(session, f"{server.url}/a", tmp_path / "a.tsv", Expected(299_999))
    with pytest.raises(InputError, match="its archive lists 299999"):
        fetch(session, f"{server.url}/a", tmp_path / "a.nii.gz", Expected(299_999))
    server.files["/a"].content = CONTENT[::-1]
    with pytest.raises(InputError, match="has the MD5"):
        fetch(session, f"{server.url}/a", tmp_path / "b.tsv", Expected(300_000))


def test_a_damaged_scan_without_a_checksum(
    server: Server, session: Session, tmp_path: Path
) -> None:
    data = bytearray(scan(2))
    data[-5] ^= 1
    server.files["/a"] = Served(bytes(data))
    with pytest.raises(InputError, match="came damaged"):
        fetch(session, f"{server.url}/a", tmp_path / "a.nii.gz", Expected(len(data)))


class TestGzip:
    @pytest.mark.parametrize("content", [scan(3), scan(3) * 3, scan(3) + bytes(3_000_000)])
    def test_whole(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "a.nii.gz"
        path.write_bytes(content)
        check_gzip(path, path)

    @pytest.mark.parametrize("more", [b"x", bytes(9) + b"x", scan(3)[:-1]])
    def test_with_more_behind_it(self, tmp_path: Path, more: bytes) -> None:
        path = tmp_path / "a.nii.gz"
        path.write_bytes(scan(3) + more)
        with pytest.raises(InputError, match=r"came (damaged|truncated)"):
            check_gzip(path, path)

    @pytest.mark.parametrize("cut", [1, 8, 100, 10_000_000])
    def test_cut(self, tmp_path: Path, cut: int) -> None:
        path = tmp_path / "a.nii.gz"
        path.write_bytes(scan(3)[:-cut])
        with pytest.raises(InputError, match="came truncated"):
            check_gzip(path, path)

    def test_bomb(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "MAX_UNPACKED", 10_000_000)
        path = tmp_path / "a.nii.gz"
        path.write_bytes(gzip.compress(bytes(12_000_000)))
        with pytest.raises(InputError, match="unpacks to more than any scan"):
            check_gzip(path, path)


def test_annex_keys_tell_size_and_checksum() -> None:
    md5, sha = "0" * 32, "a" * 64
    assert Expected.from_annex(f"MD5E-s123--{md5}.nii.gz") == Expected(123, "md5", md5)
    assert Expected.from_annex(f"SHA256E-s5--{sha}.nii.gz") == Expected(5, "sha256", sha)
    assert Expected.from_annex("92e695a42470f48ad581ac8dd0894c07ebc4a9b8") is None


@pytest.fixture
def begun(server: Server, session: Session, tmp_path: Path) -> Path:
    """A part of 100,000 bytes, as a failure leaves it."""
    server.files["/a"] = Served(CONTENT, faults=[("drop", 100_000)] + [503] * 20)
    with pytest.raises(InputError):
        fetch(session, f"{server.url}/a", tmp_path / "a", Expected())
    assert leftovers(tmp_path) == {"a.part", "a.part.json"}
    server.files["/a"].faults, server.sent = [], 0
    server.requests.clear()
    return tmp_path / "a"


class TestNextStart:
    def test_goes_on(self, begun: Path, server: Server, session: Session) -> None:
        came: list[int] = []
        fetch(session, f"{server.url}/a", begun, Expected(), came.append)
        assert begun.read_bytes() == CONTENT
        assert server.sent == 200_000
        assert sum(came) == len(CONTENT)

    def test_begins_anew_where_the_file_changed(
        self, begun: Path, server: Server, session: Session
    ) -> None:
        server.files["/a"].content = CONTENT[::-1]
        fetch(session, f"{server.url}/a", begun, Expected())
        assert begun.read_bytes() == CONTENT[::-1]

    @pytest.mark.parametrize("note", ["", "{}", '{"length": 1}', '{"x": 1}', "[]"])
    def test_begins_anew_where_nobody_knows_what_it_is_a_part_of(
        self, begun: Path, server: Server, session: Session, note: str
    ) -> None:
        begun.with_name("a.part").write_bytes(bytes(50_000))
        begun.with_name("a.part.json").write_text(note)
        fetch(session, f"{server.url}/a", begun, Expected())
        assert begun.read_bytes() == CONTENT

    def test_begins_anew_where_the_part_was_damaged(
        self, begun: Path, server: Server, session: Session
    ) -> None:
        begun.with_name("a.part").write_bytes(bytes(100_000))
        digest = hashlib.sha256(CONTENT).hexdigest()
        fetch(session, f"{server.url}/a", begun, Expected(300_000, "sha256", digest))
        assert begun.read_bytes() == CONTENT

    def test_asks_nothing_where_all_had_come(
        self, begun: Path, server: Server, session: Session
    ) -> None:
        begun.with_name("a.part").write_bytes(CONTENT)
        fetch(session, f"{server.url}/a", begun, Expected(300_000))
        assert begun.read_bytes() == CONTENT
        assert server.requests == []

    def test_begins_anew_where_the_part_is_longer_than_the_file(
        self, begun: Path, server: Server, session: Session
    ) -> None:
        begun.with_name("a.part").write_bytes(CONTENT * 2)
        fetch(session, f"{server.url}/a", begun, Expected())
        assert begun.read_bytes() == CONTENT


def test_a_place_that_cannot_be_written(server: Server, session: Session, tmp_path: Path) -> None:
    server.files["/a"] = Served(CONTENT)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        fetch(session, f"{server.url}/a", tmp_path / "file" / "a", Expected())


def test_a_kill_in_the_middle(server: Server, session: Session, tmp_path: Path) -> None:
    server.files["/a"] = Served(CONTENT, slow=0.05)
    path = tmp_path / "a"
    code = (
        "import sys, pathlib\n"
        "from mrbridge.download.files import Expected, fetch\n"
        "from mrbridge.download.http import Session\n"
        "fetch(Session(), sys.argv[1], pathlib.Path(sys.argv[2]), Expected())\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, f"{server.url}/a", str(path)])
    part = tmp_path / "a.part"
    deadline = time.monotonic() + 20
    while "a.part.json" not in leftovers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not path.exists()
    kept = part.stat().st_size
    assert 0 < kept < len(CONTENT)
    server.files["/a"].slow = 0
    fetch(session, f"{server.url}/a", path, Expected())
    assert path.read_bytes() == CONTENT
    assert server.requests[-1][2] == f"bytes={kept}-"
    assert leftovers(tmp_path) == {"a"}
