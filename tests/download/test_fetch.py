"""A file is complete and verified, or absent; what has arrived of it is resumed."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from tests.download.server import Served, Server, scan

from mrbridge.download import folder, http
from mrbridge.download.folder import Expected, damage, fetch
from mrbridge.download.http import (
    Damaged,
    FileState,
    Session,
    Stopped,
    Stream,
)
from mrbridge.download.settings import DownloadSettings
from mrbridge.errors import InputError

CONTENT = random.Random(1).randbytes(300_000)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "a"


@pytest.fixture
def url(server: Server) -> str:
    server.files["/a"] = Served(CONTENT)
    return f"{server.url}/a"


class TestWhatArrives:
    @pytest.mark.parametrize("content", [CONTENT, b""])
    def test_is_the_file(
        self, server: Server, session: Session, url: str, target: Path, content: bytes
    ) -> None:
        server.files["/a"].content = content
        counts: list[int] = []
        fetch(session, url, target, Expected(len(content)), counts.append)
        assert target.read_bytes() == content
        assert names(target.parent) == {"a"}
        assert sum(counts) == len(content)

    @pytest.mark.parametrize(
        "faults",
        [
            [("drop", 70_000)],
            [("drop", 0), ("drop", 1), ("drop", 70_000), ("drop", 5)],
            [503, 429, ("drop", 100), 500, 502, 504],
        ],
    )
    @pytest.mark.parametrize("ranges", [True, False])
    def test_is_the_file_after_broken_connections(
        self, server: Server, session: Session, url: str, target: Path, faults: list, ranges: bool
    ) -> None:
        server.files["/a"] = Served(CONTENT, faults=list(faults), ranges=ranges)
        fetch(session, url, target, Expected())
        assert target.read_bytes() == CONTENT
        assert server.files["/a"].faults == []

    def test_is_not_requested_twice(
        self, server: Server, session: Session, url: str, target: Path
    ) -> None:
        server.files["/a"].faults = [("drop", 150_000)]
        fetch(session, url, target, Expected())
        assert [range_ for _, _, range_ in server.requests] == [None, "bytes=150000-"]
        assert server.sent == len(CONTENT)

    @pytest.mark.parametrize("ranges", [True, False])
    @pytest.mark.parametrize("start", [1, 65_536, 299_999, 300_000])
    def test_is_the_rest_of_the_file(
        self, server: Server, session: Session, url: str, start: int, ranges: bool
    ) -> None:
        server.files["/a"].ranges = ranges
        state = session.look(url)
        assert state.length == len(CONTENT)
        stream = Stream(session, url, position=start, state=state)
        assert stream.read(1 << 20) == CONTENT[start:]

    def test_is_of_one_state_of_the_file(
        self, server: Server, session: Session, url: str, target: Path
    ) -> None:
        server.files["/a"].faults = [("change", CONTENT[::-1])]
        counts: list[int] = []
        fetch(session, url, target, Expected(), counts.append)
        assert target.read_bytes() == CONTENT[::-1]
        assert sum(counts) == len(CONTENT)

    def test_is_refused_if_the_file_keeps_changing(
        self, server: Server, session: Session, url: str, target: Path
    ) -> None:
        changes = [("change", random.Random(n).randbytes(300_000)) for n in range(9)]
        server.files["/a"].faults = changes
        with pytest.raises(InputError, match="changed on the server"):
            fetch(session, url, target, Expected())
        assert names(target.parent) == set()

    @pytest.mark.parametrize("validator", ["ETag", "Last-Modified"])
    def test_is_refused_if_only_the_validator_changed(
        self, server: Server, session: Session, url: str, validator: str
    ) -> None:
        dates = ["Mon, 03 Mar 2025 10:00:00 GMT", "Tue, 04 Mar 2025 10:00:00 GMT"]
        both = [{"ETag": None, "Last-Modified": date} for date in dates]
        old, new = both if validator == "Last-Modified" else ({}, {})
        server.files["/a"] = Served(CONTENT, headers=dict(old))
        state = session.look(url)
        server.files["/a"] = Served(CONTENT[::-1], headers=dict(new))
        with pytest.raises(Damaged):
            Stream(session, url, position=100, state=state).read(10)

    @pytest.mark.parametrize("algorithm", ["md5", "sha256"])
    def test_is_requested_once_more_if_its_checksum_is_wrong(
        self, server: Server, session: Session, url: str, target: Path, algorithm: str
    ) -> None:
        server.files["/a"] = Served(CONTENT[::-1], headers={"ETag": '"same"'})
        digest = hashlib.new(algorithm, CONTENT).hexdigest()
        expected = Expected(len(CONTENT), algorithm, digest)
        with pytest.raises(InputError, match=f"{algorithm.upper()} is .* instead of {digest}"):
            fetch(session, url, target, expected)
        assert len(server.requests) == 2
        assert names(target.parent) == set()
        server.files["/a"].content = CONTENT
        fetch(session, url, target, expected)
        assert target.read_bytes() == CONTENT

    @pytest.mark.parametrize("size", [len(CONTENT) + 1, len(CONTENT) - 1])
    def test_has_the_listed_size(self, session: Session, url: str, target: Path, size: int) -> None:
        with pytest.raises(InputError, match=f"has 300000 bytes instead of {size}"):
            fetch(session, url, target.with_name("a.nii"), Expected(size))
        assert names(target.parent) == set()

    @pytest.mark.parametrize("fault", [("lie", 5000), ("short", 5000)])
    def test_has_the_announced_size(
        self, server: Server, session: Session, url: str, target: Path, fault: tuple[str, int]
    ) -> None:
        server.files["/a"] = Served(scan(1, (30, 30, 30)), faults=[fault] * 99)
        path = target.with_name("a.nii.gz")
        with pytest.raises(InputError):
            fetch(session, url, path, Expected())
        assert not path.exists()

    def test_of_a_scan_without_checksum_unpacks(
        self, server: Server, session: Session, url: str, target: Path
    ) -> None:
        data = bytearray(scan(2))
        data[-5] ^= 1
        server.files["/a"] = Served(bytes(data))
        with pytest.raises(InputError, match=r"is damaged \(CRC check failed"):
            fetch(session, url, target.with_name("a.nii.gz"), Expected(len(data)))


class TestLimits:
    def test_of_a_listed_file(self, server: Server, session: Session, target: Path) -> None:
        server.files["/a"] = Served(CONTENT * 10)
        with pytest.raises(InputError, match="sends more than it should"):
            fetch(session, f"{server.url}/a", target, Expected(1000))
        assert names(target.parent) == set()

    def test_of_an_endless_file_without_a_listed_size(
        self, server: Server, session: Session, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(folder, "MAX_FILE", 1 << 20)
        server.files["/a"] = Served(CONTENT, endless=True)
        with pytest.raises(InputError, match="sends more than it should"):
            fetch(session, f"{server.url}/a", target, Expected())
        assert names(target.parent) == set()

    @pytest.mark.parametrize(
        ("answer", "problem"),
        [
            (b"[" * 100_000, "does not answer with JSON"),
            (b"\xff", "does not answer with JSON"),
            (b"", "does not answer with JSON"),
            (b'"' + b"x" * 2_000_000 + b'"', "more than 1000000 bytes of JSON"),
        ],
    )
    def test_of_json(
        self,
        server: Server,
        session: Session,
        answer: bytes,
        problem: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(http, "MAX_JSON", 1_000_000)
        server.graphql = lambda question: answer
        with pytest.raises(InputError, match=problem):
            session.post(f"{server.url}/crn/graphql", {"query": "x"})

    def test_of_headers(self, server: Server, session: Session, url: str, target: Path) -> None:
        server.files["/a"].headers = {f"X-{n}": "x" * 60_000 for n in range(30)}
        with pytest.raises(InputError, match="cannot be"):
            fetch(session, url, target, Expected())

    def test_of_a_gzip_bomb(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(folder, "MAX_UNPACKED", 10_000_000)
        (tmp_path / "a").write_bytes(gzip.compress(bytes(12_000_000)))
        assert damage(tmp_path / "a", Expected(), ".nii.gz") == (
            "is larger than any scan once unpacked"
        )


class TestGzip:
    @pytest.mark.parametrize("content", [scan(3), scan(3) * 3, scan(3) + bytes(3_000_000)])
    def test_intact(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a").write_bytes(content)
        assert damage(tmp_path / "a", Expected(), ".nii.gz") is None

    @pytest.mark.parametrize(
        "content",
        [
            *(scan(3) + b"x", scan(3) + bytes(9) + b"x", scan(3)[:100] + b"x" + scan(3)[101:]),
            *(scan(3)[:-1], scan(3)[:-8], scan(3)[:-100], scan(3) * 2 + scan(3)[:-1], b"no", b""),
        ],
        ids=range(9),
    )
    def test_damaged(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a").write_bytes(content)
        assert (damage(tmp_path / "a", Expected(), ".nii.gz") or "").startswith("is ")


class TestNextRun:
    @pytest.fixture
    def begun(self, server: Server, session: Session, url: str, target: Path) -> Path:
        """100,000 bytes, as a failure leaves them."""
        server.files["/a"].faults = [("drop", 100_000)] + [503] * 20
        with pytest.raises(InputError, match="resumes where it stopped"):
            fetch(session, url, target, Expected())
        assert names(target.parent) == {"a.part", "a.part.json"}
        server.files["/a"].faults, server.sent = [], 0
        server.requests.clear()
        return target

    def test_resumes(self, begun: Path, server: Server, session: Session, url: str) -> None:
        counts: list[int] = []
        fetch(session, url, begun, Expected(), counts.append)
        assert begun.read_bytes() == CONTENT
        assert server.sent == 200_000
        assert sum(counts) == len(CONTENT)

    def test_requests_nothing_if_all_had_arrived(
        self, begun: Path, server: Server, session: Session, url: str
    ) -> None:
        begun.with_name("a.part").write_bytes(CONTENT)
        fetch(session, url, begun, Expected(300_000))
        assert begun.read_bytes() == CONTENT
        assert server.requests == []

    def test_starts_over_if_the_file_changed(
        self, begun: Path, server: Server, session: Session, url: str
    ) -> None:
        server.files["/a"].content = CONTENT[::-1]
        fetch(session, url, begun, Expected())
        assert begun.read_bytes() == CONTENT[::-1]

    @pytest.mark.parametrize(
        "note",
        ["", "{}", '{"length": 1}', '{"x": 1}', "[]", '{"etag": 5}', '{"length": 1e400}', "\0"],
    )
    def test_starts_over_without_a_readable_note(
        self, begun: Path, session: Session, url: str, note: str
    ) -> None:
        begun.with_name("a.part").write_bytes(bytes(50_000))
        begun.with_name("a.part.json").write_text(note)
        fetch(session, url, begun, Expected())
        assert begun.read_bytes() == CONTENT

    def test_starts_over_if_the_validator_is_weak(
        self, begun: Path, session: Session, url: str
    ) -> None:
        begun.with_name("a.part").write_bytes(bytes(50_000))
        begun.with_name("a.part.json").write_text(json.dumps({"etag": 'W/"x"', "length": 300_000}))
        fetch(session, url, begun, Expected())
        assert begun.read_bytes() == CONTENT

    @pytest.mark.parametrize("part", [bytes(100_000), CONTENT * 2])
    def test_starts_over_if_the_part_is_damaged(
        self, begun: Path, session: Session, url: str, part: bytes
    ) -> None:
        begun.with_name("a.part").write_bytes(part)
        expected = Expected(300_000, "sha256", hashlib.sha256(CONTENT).hexdigest())
        fetch(session, url, begun, expected)
        assert begun.read_bytes() == CONTENT

    def test_after_a_kill(self, server: Server, session: Session, url: str, target: Path) -> None:
        server.files["/a"].slow = 0.05
        code = (
            "import sys, pathlib\n"
            "from mrbridge.download.folder import Expected, fetch\n"
            "from mrbridge.download.http import Session\n"
            "from mrbridge.download.settings import DownloadSettings\n"
            "session, path = Session(DownloadSettings()), pathlib.Path(sys.argv[2])\n"
            "fetch(session, sys.argv[1], path, Expected())\n"
        )
        child = subprocess.Popen([sys.executable, "-c", code, url, str(target)])
        part, deadline = target.with_name("a.part"), time.monotonic() + 60
        while time.monotonic() < deadline and not (part.exists() and part.stat().st_size):
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert not target.exists()
        arrived = part.stat().st_size
        server.files["/a"].slow = 0
        fetch(session, url, target, Expected())
        assert target.read_bytes() == CONTENT
        assert server.requests[-1][2] == f"bytes={arrived}-"
        assert names(target.parent) == {"a"}


class TestRetries:
    def test_end_after_the_last_attempt(self, server: Server, session: Session, url: str) -> None:
        server.files["/a"].faults = [503] * 50
        with pytest.raises(InputError, match=r"cannot be downloaded \(status 503\).*resumes"):
            session.look(url)
        assert len(server.requests) == session.settings.attempts

    def test_wait_longer_each_time(
        self, server: Server, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.files["/a"].faults = [503] * 7
        settings = DownloadSettings(attempts=8, first_wait_seconds=1, longest_wait_seconds=9)
        waits: list[float] = []
        with Session(settings) as session:
            monkeypatch.setattr(session.stop, "wait", lambda timeout: waits.append(timeout))
            session.look(url)
        for wait, least in zip(waits, [1, 2, 4, 8, 9, 9, 9], strict=True):
            assert least <= wait <= least + 1

    def test_obey_retry_after(self, server: Server, session: Session, url: str) -> None:
        server.files["/a"] = Served(CONTENT, headers={"Retry-After": "1"}, faults=[429])
        begin = time.monotonic()
        session.look(url)
        assert time.monotonic() - begin > 0.95

    def test_end_if_the_server_asks_for_too_long_a_wait(
        self, server: Server, session: Session, url: str
    ) -> None:
        server.files["/a"] = Served(CONTENT, headers={"Retry-After": "3600"}, faults=[429])
        with pytest.raises(InputError, match=r"asks to wait for 3600 seconds.*resumes"):
            session.look(url)

    @pytest.mark.parametrize("status", [401, 403, 404, 410, 418])
    def test_not_after_a_refusal(
        self, server: Server, session: Session, url: str, status: int
    ) -> None:
        server.files["/a"].faults = [status]
        with pytest.raises(InputError, match=r"/a (is|does)"):
            session.look(url)
        assert len(server.requests) == 1

    def test_are_few_without_network(
        self, session: Session, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waits: list[float] = []
        monkeypatch.setattr(session.stop, "wait", lambda timeout: waits.append(timeout))
        with pytest.raises(InputError, match=r"cannot be reached.*Check the network"):
            session.look("http://127.0.0.1:9/a")  # the discard port, on which nothing listens
        assert len(waits) == 1


@pytest.mark.parametrize(
    "url", ["ftp://x.org/a", "nonsense", "http://[::1", f"http://{'x' * 70}.org/", "http://a\0/"]
)
def test_unusable_addresses(session: Session, url: str) -> None:
    with pytest.raises(InputError):
        session.look(url)


def test_a_stopped_session_transfers_nothing_more(
    server: Server, session: Session, url: str
) -> None:
    server.files["/a"] = Served(CONTENT * 20, slow=0.01)
    stream = Stream(session, url)
    stream.read(1)
    session.stop.set()
    with pytest.raises(Stopped):
        stream.read(len(CONTENT) * 20)
    assert server.sent < len(CONTENT) * 10


@pytest.mark.parametrize(
    ("target", "is_fine"), [("https://y.org/b", True), ("http://x.org/a", False), ("/b", True)]
)
def test_encryption_is_never_dropped(session: Session, target: str, is_fine: bool) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url == "https://x.org/a":
            return httpx.Response(302, headers={"Location": target})
        return httpx.Response(200, content=CONTENT)

    session._client = httpx.Client(transport=httpx.MockTransport(answer), follow_redirects=True)
    if is_fine:
        assert session.look("https://x.org/a").length == len(CONTENT)
    else:
        with pytest.raises(InputError, match="which is not encrypted"):
            session.look("https://x.org/a")


def test_git_annex_keys() -> None:
    md5, sha = "0" * 32, "a" * 64
    assert Expected.from_annex(f"MD5E-s123--{md5}.nii.gz") == Expected(123, "md5", md5)
    assert Expected.from_annex(f"SHA256E-s5--{sha}.nii.gz") == Expected(5, "sha256", sha)
    assert Expected.from_annex("92e695a42470f48ad581ac8dd0894c07ebc4a9b8") is None


def test_states_without_common_validators() -> None:
    assert not FileState(etag='"a"').is_same(FileState(modified="x"))
    assert not FileState(length=1).is_same(FileState(length=2))
    assert FileState(length=1, etag='"a"').is_same(FileState(length=1))
