"""A file is complete and verified, or absent; what has arrived of it is resumed."""

from __future__ import annotations

import gzip
import hashlib
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from tests.download.server import Served, Server, scan

from mrbridge.download import fetch as module
from mrbridge.download.fetch import RemoteFile, Session, fetch
from mrbridge.download.settings import DownloadSettings
from mrbridge.errors import InputError, Interrupted

CONTENT = random.Random(1).randbytes(300_000)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def look(session: Session, url: str) -> bytes:
    content, _ = session.retry(session.read, "GET", url)
    return content


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "folder"


@pytest.fixture
def url(server: Server) -> str:
    server.files["/a"] = Served(CONTENT)
    return f"{server.url}/a"


@pytest.fixture
def file(url: str) -> RemoteFile:
    """Listed with size and checksum."""
    return RemoteFile(url, "a", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


class TestWhatArrives:
    @pytest.mark.parametrize("content", [CONTENT, b""])
    def test_is_the_file(
        self, server: Server, session: Session, url: str, out: Path, content: bytes
    ) -> None:
        server.files["/a"].content = content
        counts: list[int] = []
        fetch(session, RemoteFile(url, "a", len(content)), out, counts.append)
        assert (out / "a").read_bytes() == content
        assert names(out) == {"a"}
        assert sum(counts) == len(content)

    @pytest.mark.parametrize(
        "faults",
        [
            [("drop", 70_000)],
            [("drop", 0), ("drop", 1), ("drop", 70_000), ("drop", 5)],
            [503, 429, ("drop", 100), 500, 502],
        ],
    )
    @pytest.mark.parametrize("ranges", [True, False])
    @pytest.mark.parametrize("is_listed", [True, False])
    def test_is_the_file_after_broken_connections(
        self,
        server: Server,
        session: Session,
        file: RemoteFile,
        out: Path,
        faults: list,
        ranges: bool,
        is_listed: bool,
    ) -> None:
        server.files["/a"] = Served(CONTENT, faults=list(faults), ranges=ranges)
        counts: list[int] = []
        listed = file if is_listed else RemoteFile(file.url, "a")
        fetch(session, listed, out, counts.append)
        assert (out / "a").read_bytes() == CONTENT
        assert server.files["/a"].faults == []
        assert sum(counts) == len(CONTENT)

    def test_is_not_requested_twice(
        self, server: Server, session: Session, file: RemoteFile, out: Path
    ) -> None:
        server.files["/a"].faults = [("drop", 150_000)]
        fetch(session, file, out, lambda count: None)
        assert [range_ for _, _, range_ in server.requests] == [
            "bytes=0-299999",
            "bytes=150000-299999",
        ]
        assert server.sent == len(CONTENT)

    def test_is_of_one_state_of_the_file(
        self, server: Server, session: Session, file: RemoteFile, out: Path
    ) -> None:
        server.files["/a"] = Served(CONTENT[::-1], faults=[("change", CONTENT)])
        counts: list[int] = []
        fetch(session, file, out, counts.append)
        assert (out / "a").read_bytes() == CONTENT
        assert sum(counts) == len(CONTENT)

    @pytest.mark.parametrize("algorithm", ["md5", "sha256"])
    def test_is_requested_once_more_if_its_checksum_is_wrong(
        self, server: Server, session: Session, file: RemoteFile, out: Path, algorithm: str
    ) -> None:
        server.files["/a"] = Served(CONTENT[::-1])
        digest = hashlib.new(algorithm, CONTENT).hexdigest()
        file = replace(file, digest=digest, algorithm=algorithm)
        with pytest.raises(InputError, match=f"{algorithm.upper()} is .* instead of {digest}"):
            fetch(session, file, out, lambda count: None)
        assert len(server.requests) == 2
        assert names(out) == set()
        server.files["/a"].content = CONTENT
        fetch(session, file, out, lambda count: None)
        assert (out / "a").read_bytes() == CONTENT

    @pytest.mark.parametrize("size", [len(CONTENT) + 1, len(CONTENT) - 1])
    def test_has_the_listed_size(self, session: Session, url: str, out: Path, size: int) -> None:
        with pytest.raises(InputError, match=f"has 300000 bytes instead of {size}"):
            fetch(session, RemoteFile(url, "a.nii", size), out, lambda count: None)
        assert names(out) == set()

    @pytest.mark.parametrize("fault", [("lie", 5000), ("short", 5000)])
    def test_has_the_announced_size(
        self, server: Server, session: Session, url: str, out: Path, fault: tuple[str, int]
    ) -> None:
        server.files["/a"] = Served(scan(1, (30, 30, 30)), faults=[fault] * 99)
        with pytest.raises(InputError):
            fetch(session, RemoteFile(url, "a.nii.gz"), out, lambda count: None)
        assert not (out / "a.nii.gz").exists()

    def test_of_a_scan_without_checksum_unpacks(
        self, server: Server, session: Session, url: str, out: Path
    ) -> None:
        data = bytearray(scan(2))
        data[-5] ^= 1
        server.files["/a"] = Served(bytes(data))
        with pytest.raises(InputError, match=r"is damaged \(CRC check failed"):
            fetch(session, RemoteFile(url, "a.nii.gz", len(data)), out, lambda count: None)


class TestLimits:
    def test_of_a_listed_file(self, server: Server, session: Session, out: Path) -> None:
        server.files["/a"] = Served(CONTENT * 10)
        with pytest.raises(InputError, match="is larger than it should be"):
            fetch(session, RemoteFile(f"{server.url}/a", "a", 1000), out, lambda count: None)
        assert names(out) == set()

    def test_of_an_endless_file_without_a_listed_size(
        self, server: Server, session: Session, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "MAX_FILE", 1 << 20)
        server.files["/a"] = Served(CONTENT, endless=True)
        with pytest.raises(InputError, match="is larger than it should be"):
            fetch(session, RemoteFile(f"{server.url}/a", "a"), out, lambda count: None)
        assert names(out) == set()

    def test_of_headers(self, server: Server, session: Session, file: RemoteFile) -> None:
        server.files["/a"].headers = {f"X-{n}": "x" * 60_000 for n in range(30)}
        with pytest.raises(InputError, match="cannot be"):
            look(session, file.url)

    def test_of_a_gzip_bomb(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_UNPACKED", 10_000_000)
        (tmp_path / "a").write_bytes(gzip.compress(bytes(12_000_000)))
        problem = RemoteFile("", "a.nii.gz").damage(tmp_path / "a")
        assert problem == "is larger than any scan once unpacked"


class TestGzip:
    @pytest.mark.parametrize("content", [scan(3), scan(3) * 3, scan(3) + bytes(3_000_000)])
    def test_intact(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a").write_bytes(content)
        assert RemoteFile("", "a.nii.gz").damage(tmp_path / "a") is None

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
        assert (RemoteFile("", "a.nii.gz").damage(tmp_path / "a") or "").startswith("is ")


class TestNextRun:
    @pytest.fixture
    def begun(self, server: Server, session: Session, file: RemoteFile, out: Path) -> Path:
        """100,000 bytes, as a failure leaves them."""
        server.files["/a"].faults = [("drop", 100_000)] + [503] * 20
        with pytest.raises(InputError, match="resumes where it stopped"):
            fetch(session, file, out, lambda count: None)
        assert names(out) == {"a.part"}
        server.files["/a"].faults, server.sent = [], 0
        server.requests.clear()
        return out / "a.part"

    def test_resumes(
        self, begun: Path, server: Server, session: Session, file: RemoteFile, out: Path
    ) -> None:
        counts: list[int] = []
        fetch(session, file, out, counts.append)
        assert (out / "a").read_bytes() == CONTENT
        assert server.sent == 200_000
        assert sum(counts) == len(CONTENT)

    def test_requests_nothing_if_all_had_arrived(
        self, begun: Path, server: Server, session: Session, file: RemoteFile, out: Path
    ) -> None:
        begun.write_bytes(CONTENT)
        fetch(session, file, out, lambda count: None)
        assert (out / "a").read_bytes() == CONTENT
        assert server.requests == []

    def test_starts_over_without_a_checksum(
        self, begun: Path, session: Session, url: str, out: Path
    ) -> None:
        begun.write_bytes(bytes(100_000))
        fetch(session, RemoteFile(url, "a", len(CONTENT)), out, lambda count: None)
        assert (out / "a").read_bytes() == CONTENT

    @pytest.mark.parametrize("part", [bytes(100_000), CONTENT * 2])
    def test_starts_over_if_the_part_is_damaged(
        self, begun: Path, session: Session, file: RemoteFile, out: Path, part: bytes
    ) -> None:
        begun.write_bytes(part)
        fetch(session, file, out, lambda count: None)
        assert (out / "a").read_bytes() == CONTENT

    def test_starts_over_if_the_server_has_less_than_the_part(
        self, begun: Path, server: Server, session: Session, file: RemoteFile, out: Path
    ) -> None:
        server.files["/a"].content = CONTENT[:50_000]
        with pytest.raises(InputError, match="SHA256"):
            fetch(session, file, out, lambda count: None)
        assert names(out) == set()

    def test_after_a_kill(
        self, server: Server, session: Session, file: RemoteFile, out: Path
    ) -> None:
        server.files["/a"].slow = 0.05
        code = (
            "import sys, pathlib\n"
            "from mrbridge.download.fetch import RemoteFile, Session, fetch\n"
            "from mrbridge.download.settings import DownloadSettings\n"
            "url, digest, out = sys.argv[1:]\n"
            "file = RemoteFile(url, 'a', 300_000, digest)\n"
            "fetch(Session(DownloadSettings()), file, pathlib.Path(out), lambda count: None)\n"
        )
        arguments = [file.url, str(file.digest), str(out)]
        child = subprocess.Popen([sys.executable, "-c", code, *arguments])
        part, deadline = out / "a.part", time.monotonic() + 60
        while time.monotonic() < deadline and not (part.exists() and part.stat().st_size):
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert not (out / "a").exists()
        arrived = part.stat().st_size
        server.files["/a"].slow = 0
        fetch(session, file, out, lambda count: None)
        assert (out / "a").read_bytes() == CONTENT
        assert server.requests[-1][2] == f"bytes={arrived}-299999"
        assert names(out) == {"a"}


class TestRetries:
    def test_end_after_the_last_attempt(self, server: Server, session: Session, url: str) -> None:
        server.files["/a"].faults = [503] * 50
        with pytest.raises(InputError, match=r"cannot be downloaded \(status 503\).*resumes"):
            look(session, url)
        assert len(server.requests) == session.settings.attempts

    @pytest.mark.parametrize("size", [None, len(CONTENT)])
    def test_end_if_every_connection_breaks_at_one_place(
        self, server: Server, session: Session, file: RemoteFile, out: Path, size: int | None
    ) -> None:
        server.files["/a"] = Served(CONTENT, faults=[("drop", 5)] * 50, ranges=False)
        with pytest.raises(InputError, match="cannot be downloaded"):
            fetch(session, replace(file, size=size), out, lambda count: None)
        assert len(server.requests) <= session.settings.attempts + 1

    def test_wait_longer_each_time(
        self, server: Server, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.files["/a"].faults = [503] * 7
        settings = DownloadSettings(attempts=8, first_wait_seconds=1, longest_wait_seconds=9)
        waits: list[float] = []
        with Session(settings) as session:
            monkeypatch.setattr(session.stop, "wait", lambda timeout: waits.append(timeout))
            look(session, url)
        for wait, least in zip(waits, [1, 2, 4, 8, 9, 9, 9], strict=True):
            assert least <= wait <= least + 1

    def test_obey_retry_after(self, server: Server, session: Session, url: str) -> None:
        server.files["/a"] = Served(CONTENT, headers={"Retry-After": "1"}, faults=[429])
        begin = time.monotonic()
        look(session, url)
        assert time.monotonic() - begin > 0.95

    def test_end_if_the_server_asks_for_too_long_a_wait(
        self, server: Server, session: Session, url: str
    ) -> None:
        server.files["/a"] = Served(CONTENT, headers={"Retry-After": "3600"}, faults=[429])
        with pytest.raises(InputError, match=r"status 429, wait 3600 s.*resumes"):
            look(session, url)
        assert len(server.requests) == 1

    @pytest.mark.parametrize("status", [401, 403, 404, 410, 418])
    def test_not_after_a_refusal(
        self, server: Server, session: Session, url: str, status: int
    ) -> None:
        server.files["/a"].faults = [status]
        with pytest.raises(InputError, match=rf"/a is refused \({status} "):
            look(session, url)
        assert len(server.requests) == 1

    def test_are_few_without_network(
        self, session: Session, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waits: list[float] = []
        monkeypatch.setattr(session.stop, "wait", lambda timeout: waits.append(timeout))
        with pytest.raises(InputError, match=r"cannot be downloaded.*Check the network"):
            look(session, "http://127.0.0.1:9/a")  # the discard port, on which nothing listens
        assert len(waits) == 1


@pytest.mark.parametrize(
    "url", ["ftp://x.org/a", "nonsense", "http://[::1", f"http://{'x' * 70}.org/", "http://a\0/"]
)
def test_unusable_addresses(session: Session, url: str) -> None:
    with pytest.raises(InputError):
        look(session, url)


def test_a_stopped_session_transfers_nothing_more(
    server: Server, session: Session, url: str, out: Path
) -> None:
    server.files["/a"] = Served(CONTENT * 20, slow=0.01)
    with pytest.raises(Interrupted):
        fetch(session, RemoteFile(url, "a"), out, lambda count: session.stop.set())
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
        assert look(session, "https://x.org/a") == CONTENT
    else:
        with pytest.raises(InputError, match="which is not encrypted"):
            look(session, "https://x.org/a")
