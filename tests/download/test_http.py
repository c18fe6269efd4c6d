"""Bytes come whole and in order, whatever the server does; where they cannot, that is said."""

from __future__ import annotations

import random
import threading
import time

import httpx
import pytest
from tests.download.server import Served, Server

from mrbridge.download import http
from mrbridge.download.http import Changed, Session, Stopped, Version
from mrbridge.download.settings import DownloadSettings
from mrbridge.errors import InputError

CONTENT = random.Random(0).randbytes(200_000)


def everything(session: Session, url: str, start: int = 0, known: Version | None = None) -> bytes:
    return b"".join(session.read(url, start, known))


@pytest.mark.parametrize("start", [0, 1, 65_536, 199_999, 200_000])
@pytest.mark.parametrize("ranges", [True, False])
def test_what_comes_is_the_rest_of_the_file(
    server: Server, session: Session, start: int, ranges: bool
) -> None:
    server.files["/a"] = Served(CONTENT, ranges=ranges)
    known = session.look(f"{server.url}/a")
    assert known.length == len(CONTENT)
    assert everything(session, f"{server.url}/a", start, known) == CONTENT[start:]


@pytest.mark.parametrize(
    ("start", "until"), [(0, 1), (0, 70_000), (5, 6), (9, 199_999), (7, 300_000)]
)
@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_ends_where_it_is_told_to(
    server: Server, session: Session, start: int, until: int, ranges: bool
) -> None:
    server.files["/a"] = Served(CONTENT, ranges=ranges, faults=[("drop", 40_000)])
    came = b"".join(session.read(f"{server.url}/a", start, None, until))
    assert came == CONTENT[start:until]
    if ranges:
        assert server.sent == len(came)


@pytest.mark.parametrize(
    "faults",
    [
        [("drop", 70_000)],
        [("drop", 0), ("drop", 1), ("drop", 70_000), ("drop", 5)],
        [503, 429, ("drop", 100), 500, 502, 504],
    ],
)
@pytest.mark.parametrize("ranges", [True, False])
def test_broken_connections_and_busy_servers_change_nothing(
    server: Server, session: Session, faults: list[object], ranges: bool
) -> None:
    server.files["/a"] = Served(CONTENT, faults=list(faults), ranges=ranges)
    assert everything(session, f"{server.url}/a") == CONTENT
    assert server.files["/a"].faults == []


def test_only_what_is_missing_is_asked_for_again(server: Server, session: Session) -> None:
    server.files["/a"] = Served(CONTENT, faults=[("drop", 150_000)])
    assert everything(session, f"{server.url}/a") == CONTENT
    assert [where for _, _, where in server.requests] == [None, "bytes=150000-"]
    assert server.sent == len(CONTENT)


def test_two_states_of_a_file_are_never_mixed(server: Server, session: Session) -> None:
    server.files["/a"] = Served(CONTENT, faults=[("change", CONTENT[::-1])])
    with pytest.raises(Changed):
        everything(session, f"{server.url}/a")


@pytest.mark.parametrize("validator", ["ETag", "Last-Modified"])
def test_a_changed_file_of_the_same_length_is_noticed(
    server: Server, session: Session, validator: str
) -> None:
    dates = {"Last-Modified": "Mon, 03 Mar 2025 10:00:00 GMT"}
    headers = {"ETag": None} | dates if validator == "Last-Modified" else {}
    server.files["/a"] = Served(CONTENT, headers=dict(headers))
    known = session.look(f"{server.url}/a")
    after = {"ETag": None, "Last-Modified": "Tue, 04 Mar 2025 10:00:00 GMT"} if headers else {}
    server.files["/a"] = Served(CONTENT[::-1], headers=after)
    with pytest.raises(Changed):
        everything(session, f"{server.url}/a", 100, known)


def test_a_weak_tag_proves_nothing() -> None:
    assert Version(5, 'W/"x"').proof is None
    assert Version(5, 'W/"x"', "Mon, 03 Mar 2025 10:00:00 GMT").proof is not None


def test_too_many_failures_in_a_row_end_it(server: Server, session: Session) -> None:
    server.files["/a"] = Served(CONTENT, faults=[503] * 50)
    with pytest.raises(InputError, match=r"cannot be transferred \(status 503\).*goes on"):
        everything(session, f"{server.url}/a")
    assert len(server.requests) == session.settings.attempts


def test_retry_after_is_obeyed(server: Server, session: Session) -> None:
    server.files["/a"] = Served(CONTENT, headers={"Retry-After": "1"}, faults=[429])
    begin = time.monotonic()
    everything(session, f"{server.url}/a")
    assert 0.95 < time.monotonic() - begin < 3


def test_a_server_that_wants_to_be_left_alone_for_long_ends_it(
    server: Server, session: Session
) -> None:
    server.files["/a"] = Served(CONTENT, headers={"Retry-After": "3600"}, faults=[429])
    with pytest.raises(InputError, match=r"asks to wait for 3600 seconds.*goes on"):
        everything(session, f"{server.url}/a")


def test_waits_double_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    with Session(DownloadSettings(attempts=8, first_wait_seconds=1, longest_wait_seconds=9)) as s:
        monkeypatch.setattr(s.stop, "wait", lambda seconds: waits.append(seconds))
        s.reached.add("x.org")
        patience = http.Patience(s, "https://x.org/a")
        for _ in range(7):
            patience.wait("busy")
    longest = [1, 2, 4, 8, 9, 9, 9]
    assert all(top / 2 <= wait <= top for wait, top in zip(waits, longest, strict=True))
    assert len(set(waits)) == len(waits)


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, None), ("7", 7), ("soon", None), ("-3", None)]
)
def test_retry_after_in_seconds(header: str | None, seconds: float | None) -> None:
    assert http._seconds(header) == seconds


def test_retry_after_as_a_date() -> None:
    from email.utils import formatdate

    told = http._seconds(formatdate(time.time() + 60, usegmt=True))
    assert told is not None
    assert 55 < told <= 60
    assert http._seconds("Mon, 03 Mar 2025 10:00:00 GMT") == 0


@pytest.mark.parametrize("status", [401, 403, 404, 410, 418])
def test_a_refusal_is_final(server: Server, session: Session, status: int) -> None:
    server.files["/a"] = Served(b"", faults=[status])
    with pytest.raises(InputError, match="/a "):
        everything(session, f"{server.url}/a")
    assert len(server.requests) == 1


def test_no_network_is_said_soon() -> None:
    begin = time.monotonic()
    with (
        Session(DownloadSettings(first_wait_seconds=0.01)) as session,
        pytest.raises(InputError, match=r"cannot be reached.*Check the network"),
    ):
        session.look("http://127.0.0.1:9/a")  # the discard port: nobody listens
    assert time.monotonic() - begin < 2


def test_where_the_network_went_the_next_files_try_less_long(
    server: Server, session: Session
) -> None:
    for name in "abc":
        server.files[f"/{name}"] = Served(CONTENT, faults=[("drop", 10)])
    assert everything(session, f"{server.url}/a") == CONTENT
    server.shutdown()
    server.server_close()
    waits = []
    session.stop.wait = lambda seconds=None: waits.append(seconds)  # type: ignore[assignment, method-assign]
    for name, tries in (("b", session.settings.attempts), ("c", 2)):
        waits.clear()
        with pytest.raises(InputError, match=r"goes on where|Check the network"):
            everything(session, f"{server.url}/{name}")
        assert len(waits) == tries - 1


@pytest.mark.parametrize("url", ["ftp://x.org/a", "nonsense", "http://[::1"])
def test_what_is_no_address(session: Session, url: str) -> None:
    with pytest.raises(InputError):
        session.look(url)


def test_a_stopped_session_transfers_nothing_more(server: Server) -> None:
    server.files["/a"] = Served(CONTENT * 20, slow=0.01)
    stop = threading.Event()
    with Session(DownloadSettings(), stop) as session:
        reading = session.read(f"{server.url}/a")
        next(reading)
        stop.set()
        with pytest.raises(Stopped):
            next(reading)
    assert server.sent < len(CONTENT) * 10


def test_an_md5_is_believed_of_s3_alone(server: Server, session: Session) -> None:
    tag = '"' + "0" * 32 + '"'
    cases = [({}, None), ({"x-amz-request-id": "1"}, "0" * 32)]
    cases.append(({"x-amz-request-id": "1", "x-amz-server-side-encryption": "aws:kms"}, None))
    for more, md5 in cases:
        server.files["/a"] = Served(CONTENT, headers={"ETag": tag, **more})
        assert session.look(f"{server.url}/a").md5 == md5
    server.files["/a"] = Served(
        CONTENT, headers={"ETag": tag[:-1] + '-2"', "x-amz-request-id": "1"}
    )
    assert session.look(f"{server.url}/a").md5 is None


@pytest.mark.parametrize(
    ("target", "fine"), [("https://y.org/b", True), ("http://x.org/a", False), ("/b", True)]
)
def test_encryption_is_never_left(session: Session, target: str, fine: bool) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url == "https://x.org/a":
            return httpx.Response(302, headers={"Location": target})
        return httpx.Response(200, content=CONTENT)

    session._client = httpx.Client(transport=httpx.MockTransport(answer), follow_redirects=True)
    if fine:
        assert session.look("https://x.org/a").length == len(CONTENT)
    else:
        with pytest.raises(InputError, match="which is not encrypted"):
            session.look("https://x.org/a")


@pytest.mark.parametrize("told", [b"[" * 100_000, b"\xff", b"", b'"' + b"x" * 2_000_000 + b'"'])
def test_answers_that_are_no_json(
    server: Server, session: Session, told: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_LONGEST_ANSWER", 1_000_000)
    server.graphql = lambda question: told
    with pytest.raises(InputError, match=r"something else than JSON|does not come to an end"):
        session.ask(f"{server.url}/crn/graphql", {"query": "x"})
