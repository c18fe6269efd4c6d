"""What `serve` refuses and limits: strangers, other pages, large uploads, hostile names."""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.web.conftest import TOKEN, Served, serve

from mrbridge.bundle import Bundle
from mrbridge.web.guard import Refused, _is_allowed, bound
from mrbridge.web.settings import ServeSettings
from mrbridge.web.uploads import check_zip, safe_name
from mrbridge.web.worker import Task, Worker

ROOT = Path(__file__).parents[2]
PATHS = (
    *("/", "/app.js", "/app.css", "/api/health", "/api/openapi.json", "/api/jobs"),
    *("/api/jobs/x", "/api/jobs/x/events", "/api/jobs/x/files/all.zip", "/runs", "/api/runs/0"),
)


def asked(method: str, url: str, **how: Any) -> httpx.Response:
    """The answer to a stranger; loading certificates would take longer than all else."""
    return httpx.request(method, url, verify=False, **how)


@pytest.fixture
def t1w(bids_scans: Path) -> Path:
    return bids_scans / "sub-01/anat/sub-01_T1w.nii.gz"


@pytest.fixture(scope="module")
def small(tiny_bundle: Bundle) -> Iterator[Served]:
    """A server with narrow limits."""
    with serve(tiny_bundle, jobs=3, waiting=2, upload_mib=1, total_mib=2) as served:
        yield served


@pytest.fixture(autouse=True)
def _empty(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "small" in request.fixturenames:
        served = request.getfixturevalue("small")
        for job in served.jobs.all():
            served.jobs.remove(job)


class TestStrangers:
    def test_it_listens_on_this_machine_only(self):
        assert ServeSettings().host == "127.0.0.1"
        with bound(ServeSettings(port=0)) as listener:
            assert listener.getsockname()[0] == "127.0.0.1"

    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize("token", [None, "", "wrong", TOKEN[:-1], f"{TOKEN}x", "ü"])
    def test_every_call_needs_the_token(self, path: str, token: str | None, web: Served):
        query = {} if token is None else {"token": token}
        answer = asked("GET", f"{web.url}{path}", params=query)
        assert answer.status_code == 401
        if token and token.isascii():
            bearer = {"Authorization": f"Bearer {token}"}
            assert asked("GET", f"{web.url}{path}", headers=bearer).status_code == 401

    @pytest.mark.parametrize("method", ["POST", "DELETE"])
    def test_changes_need_the_token_too(self, method: str, web: Served):
        for path in ("/api/jobs", "/api/jobs/x", "/api/jobs/x/start", "/api/jobs/x/cancel"):
            files = {"scan": ("a_T1w.nii", b"x")} if method == "POST" else None
            assert asked(method, f"{web.url}{path}", files=files).status_code == 401
        assert web.jobs.all() == []

    @pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "10.0.0.1", "", "[::"])
    def test_names_that_are_rebound_to_this_address(self, host: str, web: Served):
        answer = web.client.get("/api/health", headers={"Host": host})
        assert answer.status_code == 421

    @pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost", "[::1]:8000"])
    def test_its_own_names(self, host: str, web: Served):
        assert web.client.get("/api/health", headers={"Host": host}).status_code == 200

    @pytest.mark.parametrize(
        ("name", "host", "allowed"),
        [
            ("evil.example", "0.0.0.0", False),
            ("192.168.1.5", "0.0.0.0", True),
            ("scanner.local", "scanner.local", True),
            ("evil.example", "scanner.local", False),
            ("192.168.1.5", "127.0.0.1", False),
        ],
    )
    def test_names_of_a_server_that_others_may_reach(self, name: str, host: str, allowed: bool):
        assert _is_allowed(name, host) is allowed

    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
    def test_requests_of_other_pages(self, origin: str, web: Served, t1w: Path):
        headers = {"Origin": origin}
        assert web.client.get("/api/health", headers=headers).status_code == 403
        files = {"scan": (t1w.name, t1w.read_bytes())}
        assert web.client.post("/api/jobs", headers=headers, files=files).status_code == 403
        assert web.jobs.all() == []

    def test_requests_of_its_own_page(self, web: Served):
        assert web.client.get("/api/health", headers={"Origin": web.url}).status_code == 200


class TestPage:
    @pytest.mark.parametrize("path", [*PATHS, "/nothing"])
    def test_nothing_but_its_own_files_may_run(self, path: str, web: Served):
        policy = web.client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"https?:", policy)

    @pytest.mark.parametrize("name", ["head", "index", "runs", "study"])
    def test_it_has_no_inline_script_or_style(self, name: str):
        page = (ROOT / f"web/src/{name}.html").read_text("utf-8")
        assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
        assert not re.search(r"<style|\sstyle=|\son\w+=", page)
        assert not re.search(r"https?://", page)

    @pytest.mark.parametrize("name", ["..%2fserver.py", "server.py", "%2e%2e/server.py", "x.js"])
    def test_other_files_of_the_package(self, name: str, web: Served):
        assert web.client.get(f"/{name}").status_code == 404


class TestLimits:
    def test_an_upload_is_refused_by_its_size(self, small: Served):
        files = {"scan": ("a_T1w.nii", bytes(2 << 20))}
        answer = small.client.post("/api/jobs", files=files)
        assert answer.status_code == 413
        assert "1 MiB" in answer.json()["error"]["text"]

    def test_an_upload_of_unknown_size(self, small: Served):
        answer = small.client.post("/api/jobs", content=iter([b"x"]))
        assert answer.status_code == 411

    def test_an_upload_that_is_not_a_form(self, small: Served):
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        answer = small.client.post("/api/jobs", content=b"--b\r\nnonsense", headers=headers)
        assert answer.status_code in (400, 422)
        assert small.jobs.all() == []

    def test_only_some_scans_wait(self, small: Served, t1w: Path):
        with small.paused():
            first = small.post(t1w).json()
            small.end_of(first, "running")
            assert small.post(t1w).status_code == 202
            assert small.post(t1w).status_code == 202
            answer = small.post(t1w)
            assert answer.status_code == 429
            assert "2 scans are waiting" in answer.json()["error"]["text"]

    def test_only_some_scans_are_kept(self, small: Served, t1w: Path):
        for _ in range(3):
            small.translated(t1w, start="false")
        answer = small.post(t1w)
        assert answer.status_code == 429
        assert "keeps 3 scans" in answer.json()["error"]["text"]
        with pytest.raises(Refused, match="keeps 3 scans"), small.jobs.reserved(1):
            pass  # before it is received
        with pytest.raises(Refused, match="keeps 3 scans"):  # uploads that were sent together
            small.jobs.add(small.jobs.all()[0])
        kept = {"id": small.jobs.all()[0].id}
        assert small.client.post(f"/api/jobs/{kept['id']}/start").status_code == 202
        assert small.end_of(kept)["state"] == "done"

    def test_all_scans_together_have_a_limit(self, small: Served, tmp_path: Path):
        large = tmp_path / "large_T1w.nii"
        large.write_bytes(bytes(1_000_000))
        assert small.post(large).status_code == small.post(large).status_code == 202
        answer = small.post(large)
        assert answer.status_code == 507
        assert "2 MiB" in answer.json()["error"]["text"]

    def test_uploads_at_the_same_time_count_together(self, small: Served):
        with small.jobs.reserved(1 << 20):
            with (
                small.jobs.reserved(1 << 20),
                pytest.raises(Refused, match="2 MiB"),
                small.jobs.reserved(1),
            ):
                pass
            with small.jobs.reserved(1 << 20):
                pass

    def test_results_count_too(self, web: Served, t1w: Path):
        job = web.jobs.get(web.translated(t1w)["id"])
        files = [path for path in job.folder.rglob("*") if path.is_file()]
        assert job.size >= sum(path.stat().st_size for path in files) > len(t1w.read_bytes())

    def test_a_form_of_too_many_parts(
        self, web: Served, t1w: Path, monkeypatch: pytest.MonkeyPatch
    ):
        fields = {f"field{number}": "x" for number in range(21)}
        assert web.post(t1w, **fields).status_code == 400
        monkeypatch.setattr("mrbridge.web.uploads._MOST_FILES", 3)
        assert web.post(*[t1w] * 4).status_code == 400
        assert list(web.jobs.folder.iterdir()) == []

    @pytest.fixture
    def bomb(self, tmp_path: Path) -> Path:
        """A zip of two kB that unpacks to 2 MiB."""
        path = tmp_path / "bomb.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("zeros", bytes(2 << 20))
        return path

    def test_a_zip_that_unpacks_to_too_much(self, small: Served, bomb: Path):
        answer = small.post(bomb)
        assert answer.status_code == 413
        assert "unpacks to more than 1 MiB" in answer.json()["error"]["text"]
        assert list(small.jobs.folder.iterdir()) == []

    def test_a_true_scan_that_unpacks_to_too_much(self, small: Served, t1w: Path, bomb: Path):
        assert small.post(t1w, truth=bomb).status_code == 413
        job = small.translated(t1w, start="false")
        files = {"truth": (bomb.name, bomb.read_bytes())}
        answer = small.client.post(f"/api/jobs/{job['id']}/start", files=files)
        assert answer.status_code == 413
        answer = small.client.post(f"/api/jobs/{job['id']}/start", content=iter([b"x"]))
        assert answer.status_code == 411

    def test_additional_scans_have_the_same_limits(
        self, four_bundle: Bundle, t1w: Path, bomb: Path, tmp_path: Path
    ):
        with serve(four_bundle, upload_mib=1) as served:
            assert served.post(t1w, also=[bomb]).status_code == 413
            large = tmp_path / "large_FLAIR.nii"
            large.write_bytes(bytes(2 << 20))
            assert served.post(t1w, also=[large]).status_code == 413
            assert list(served.jobs.folder.iterdir()) == []
            job = served.translated(t1w, start="false")
            folder = served.jobs.get(job["id"]).folder
            before = sorted(folder.iterdir())
            start = f"/api/jobs/{job['id']}/start"
            files = [("also", ("../../../a_FLAIR.nii.gz", t1w.read_bytes()))]
            answer = served.client.post(
                start, files=[*files, ("also", (bomb.name, bomb.read_bytes()))]
            )
            assert answer.status_code == 413
            assert sorted(folder.iterdir()) == before
            with served.paused():
                busy = served.post(t1w).json()
                served.end_of(busy, "running")
                answer = served.client.post(f"/api/jobs/{busy['id']}/start", files=files)
                assert answer.status_code == 409
                assert list(served.jobs.get(busy["id"]).folder.glob("more-*")) == []
            assert served.client.post(start, files=files).status_code == 202
            (scan,) = served.jobs.get(job["id"]).task.also
            assert scan.name == "a_FLAIR.nii.gz"
            assert scan.parents[1].parent == folder
            assert served.end_of(job, "done", "failed")["state"] == "done"

    def test_a_damaged_zip(self, web: Served, tmp_path: Path, bomb: Path):
        damaged = tmp_path / "damaged.zip"
        damaged.write_bytes(bomb.read_bytes()[:-30])
        answer = web.post(damaged)
        assert answer.status_code == 422
        assert "damaged or incomplete" in answer.json()["error"]["text"]

    def test_a_zip_of_too_many_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("mrbridge.web.uploads._MOST_FILES", 3)
        path = tmp_path / "many.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(4):
                archive.writestr(f"{number}.dcm", b"")
        with pytest.raises(Refused, match="more than 3 files"):
            check_zip(path, 1000)

    def test_a_zip_of_nifti_files(self, web: Served, t1w: Path, tmp_path: Path):
        path = tmp_path / "scans.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(t1w, "sub-01/sub-01_T1w.nii.gz")
        answer = web.post(path)
        assert answer.status_code == 422
        assert "Unpack it" in answer.json()["error"]["text"]
        assert web.jobs.all() == []

    def test_a_file_that_unpacks_to_more_than_it_promises(
        self, web: Served, t1w: Path, tmp_path: Path
    ):
        import gzip

        bomb = tmp_path / "bomb_T1w.nii.gz"
        with gzip.open(bomb, "wb") as file:
            file.write(gzip.decompress(t1w.read_bytes()))
            for _ in range(64):
                file.write(bytes(1 << 20))
        job = web.translated(bomb)
        assert job["state"] == "failed"
        assert "more than its header promises" in job["error"]["text"]

    def test_a_header_that_promises_too_much(self, web: Served, t1w: Path, tmp_path: Path):
        import gzip

        content = bytearray(gzip.decompress(t1w.read_bytes()))
        content[40:56] = b"\x03\x00" + 3 * b"\xff\x7f" + 4 * b"\x01\x00"  # dim of nifti1.h
        (tmp_path / "huge_T1w.nii").write_bytes(content)
        job = web.translated(tmp_path / "huge_T1w.nii")
        assert "huge_T1w.nii: " in job["error"]["text"]

    def test_scans_are_removed_after_a_while(self, web: Served, t1w: Path):
        job = web.jobs.get(web.translated(t1w, start="false")["id"])
        web.jobs.remove_old()
        assert job.folder.is_dir()
        age = 60 * web.jobs.settings.keep_minutes + 1
        job.touched -= age
        with web.paused():
            busy = web.jobs.get(web.post(t1w).json()["id"])
            web.end_of({"id": busy.id}, "running")
            busy.touched -= age
            web.jobs.remove_old()
        assert not job.folder.exists()
        assert busy.folder.is_dir(), "it is being translated"


@pytest.mark.slow
def test_the_server_removes_old_scans_by_itself(
    tiny_bundle: Bundle, t1w: Path, monkeypatch: pytest.MonkeyPatch
):
    assert ServeSettings().keep_minutes == 60
    monkeypatch.setattr("mrbridge.web.jobs._TIDY_SECONDS", 0.2)
    with serve(tiny_bundle, keep_minutes=0.02) as served:
        folder = served.jobs.get(served.post(t1w, start="false").json()["id"]).folder
        deadline = time.monotonic() + 120
        while folder.exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert served.jobs.all() == []


class TestNames:
    @pytest.mark.parametrize(
        ("name", "safe"),
        [
            ("../../etc/a_T1w.nii.gz", "a_T1w.nii.gz"),
            ("..\\..\\a_T1w.nii.gz", "a_T1w.nii.gz"),
            ("/abs/T1w.png", "T1w.png"),
            ("a\0b\nc.nii", "a_b_c.nii"),
            (".hidden.nii", "hidden.nii"),
            ("Müller T1w.nii", "Müller T1w.nii"),
            (300 * "x" + ".nii.gz", 143 * "x" + ".nii.gz"),
        ],
    )
    def test_an_uploaded_name_is_one_name(self, name: str, safe: str):
        assert safe_name(name) == safe

    @pytest.mark.parametrize("name", ["", "..", "a/..", "a/", ". ."])
    def test_no_name_is_left(self, name: str):
        with pytest.raises(Refused):
            safe_name(name)

    def test_an_upload_stays_in_its_folder(self, web: Served, t1w: Path):
        files = {"scan": ("../../../sub-01_T1w.nii.gz", t1w.read_bytes())}
        job = web.client.post("/api/jobs", files=files).json()
        scan = web.jobs.get(job["id"]).task.scan
        assert scan.parent.parent.parent == web.jobs.folder
        assert web.end_of(job)["state"] == "done"

    @pytest.mark.parametrize("name", ["../a.dcm", "a/../../b", "/etc/a", "..\\a", "C:\\a"])
    def test_a_zip_with_names_that_lead_elsewhere(self, name: str, tmp_path: Path):
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, b"x")
        with pytest.raises(Refused, match="lead out of it"):
            check_zip(path, 1000)

    @pytest.mark.parametrize(
        "name", ["..%2fscan%2fsub-01_T1w.nii.gz", "%2e%2e", "sub-01_T1w.nii.gz"]
    )
    def test_only_results_are_given_out(self, name: str, web: Served, t1w: Path):
        job = web.translated(t1w)
        assert web.client.get(f"/api/jobs/{job['id']}/files/{name}").status_code == 404

    def test_no_names_in_logs(
        self,
        web: Served,
        four: Served,
        t1w: Path,
        caplog: pytest.LogCaptureFixture,
        capfd: Any,
        tmp_path: Path,
    ):
        scan = tmp_path / "MUSTERMANN_ERIKA.nii.gz"
        scan.write_bytes(t1w.read_bytes())
        damaged = tmp_path / "MUSTERMANN_ERIKA_T1w.nii.gz"
        damaged.write_bytes(t1w.read_bytes()[:-99])
        with caplog.at_level(logging.DEBUG):
            assert web.translated(scan)["state"] == "done"
            assert web.translated(damaged)["state"] == "failed"
            other = damaged.rename(tmp_path / "MUSTERMANN_ERIKA_FLAIR.nii.gz")
            job = four.translated(scan, also=[other], to="T2w")
            assert job["error"]["text"].startswith("MUSTERMANN_ERIKA_FLAIR.nii.gz: ")
        text = caplog.text + "".join(capfd.readouterr())
        assert "done in" in text
        assert "MUSTERMANN" not in text
        assert "ERIKA" not in text


def test_files_are_private(web: Served, t1w: Path):
    job = web.jobs.get(web.translated(t1w)["id"])
    assert stat.S_IMODE(web.jobs.folder.stat().st_mode) == 0o700
    assert web.jobs.folder in job.folder.parents


def test_a_killed_worker_is_replaced(web: Served, t1w: Path):
    with web.paused():
        job = web.post(t1w).json()
        web.end_of(job, "running")
        os.kill(web.jobs.worker.pid, signal.SIGKILL)
        failed = web.end_of(job)
    assert failed["state"] == "failed"
    assert "worker process was stopped" in failed["error"]["text"]
    assert web.translated(t1w)["state"] == "done"


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="this system has no waitid")
def test_a_late_answer_about_another_scan_is_ignored(monkeypatch: pytest.MonkeyPatch, t1w: Path):
    ours, theirs = multiprocessing.Pipe()
    worker = Worker([], "cpu", allow_code=False)
    monkeypatch.setattr(worker, "_connection", ours)
    monkeypatch.setattr(worker, "_process", multiprocessing.current_process())
    theirs.send((0, "loaded", []))
    task = Task("look", t1w, None, t1w, t1w)
    for scan in ("first", "second"):
        worker.send(task)
        number, sent = theirs.recv()
        assert sent == task
        if scan == "second":
            theirs.send((number - 1, "done", "first"))
            theirs.send((number, "progress", 0.5))
        theirs.send((number, "done", scan))
    answers = [worker.answer(0) for _ in range(5)]
    assert [one for one in answers if one] == [("progress", 0.5), ("done", "second")]


def test_a_stopped_worker_is_replaced(web: Served, t1w: Path, monkeypatch: pytest.MonkeyPatch):
    number = web.jobs.worker.pid
    with web.paused():
        job = web.post(t1w).json()
        monkeypatch.setattr("mrbridge.web.worker._STOPPED_SECONDS", 0.3)
        failed = web.end_of(job)
    assert failed["state"] == "failed"
    assert "worker process was stopped" in failed["error"]["text"]
    assert web.translated(t1w)["state"] == "done"
    assert web.jobs.worker.pid != number


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="this system has no waitid")
def test_a_worker_that_is_stopped_while_it_loads_is_replaced(
    web: Served, t1w: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("mrbridge.web.worker._STOPPED_SECONDS", 0.3)
    with web.paused():
        running = web.post(t1w).json()
        web.end_of(running, "running")
        before = web.jobs.worker.pid
        web.client.post(f"/api/jobs/{running['id']}/cancel")
        deadline = time.monotonic() + 60
        while web.jobs.worker.pid in (None, before):
            assert time.monotonic() < deadline
        os.kill(web.jobs.worker.pid, signal.SIGSTOP)
    assert web.translated(t1w)["state"] == "done"
    assert web.end_of(running)["state"] == "cancelled"


def test_200_requests_at_once_next_to_slow_clients(web: Served, t1w: Path):
    port = httpx.URL(web.url).port
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    head = f"POST /api/jobs?token={TOKEN} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n"
    form = "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b"
    for number, one in enumerate(slow):
        one.sendall((head + form if number % 2 else head[:30]).encode())
    job = web.post(t1w).json()

    async def ask() -> list[int]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(
            base_url=web.url, headers=web.client.headers, limits=limits, timeout=120
        ) as client:
            paths = ["/api/health", f"/api/jobs/{job['id']}"]
            answers = await asyncio.gather(*(client.get(paths[n % 2]) for n in range(200)))
        return [answer.status_code for answer in answers]

    start = time.monotonic()
    assert set(asyncio.run(ask())) == {200}
    assert time.monotonic() - start < 60
    assert web.end_of(job)["state"] == "done"
    for one in slow:
        one.close()


class TestCommandLine:
    def start(
        self, bundle: Path, place: Path, *more: str, cwd: Path | None = None
    ) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "mrbridge", "serve", "-m", str(bundle)]
        process = subprocess.Popen(
            [*command, "--port", "0", "--json", *more],
            cwd=cwd,
            env=os.environ | {"TMPDIR": str(place)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        return process, json.loads(process.stdout.readline())["url"]

    def test_ctrl_c_ends_it_and_removes_everything(
        self, tiny_bundle: Bundle, t1w: Path, tmp_path: Path
    ):
        process, url = self.start(tiny_bundle.path, tmp_path)
        assert url.startswith("http://127.0.0.1:")
        assert len(httpx.URL(url).params["token"]) >= 32
        health = httpx.get(url.replace("/?", "/api/health?"))
        assert health.json()["models"][0]["contrasts"] == ["T1w", "T2w"]
        files = {"scan": (t1w.name, t1w.read_bytes())}
        assert httpx.post(url.replace("/?", "/api/jobs?"), files=files).status_code == 202
        assert list(tmp_path.iterdir())
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert list(tmp_path.iterdir()) == []
        assert "Traceback" not in err
        assert "sub-01" not in err

    @pytest.mark.slow
    def test_what_a_killed_server_left_is_removed_by_the_next_one(
        self, tiny_bundle: Bundle, tmp_path: Path
    ):
        process, _ = self.start(tiny_bundle.path, tmp_path)
        process.kill()
        process.communicate()  # ends once the worker, which has the same output, has ended too
        (left,) = tmp_path.iterdir()
        for number in (signal.SIGTERM, signal.SIGHUP):  # a service is stopped, a terminal closed
            process, _ = self.start(tiny_bundle.path, tmp_path)
            assert not left.exists()
            process.send_signal(number)
            process.communicate(timeout=120)
            assert list(tmp_path.iterdir()) == []

    @pytest.mark.slow
    def test_code_that_a_model_names_is_imported_if_allowed(
        self, tiny_bundle: Bundle, t1w: Path, run: Callable[..., Any], tmp_path: Path
    ):
        here, place = tmp_path / "here", tmp_path / "place"
        place.mkdir()
        shutil.copytree(tiny_bundle.path, here / "bundle")
        shutil.copy(ROOT / "examples/extension/mrbridge_example.py", here)
        manifest = here / "bundle/bundle.json"
        values = json.loads(manifest.read_text())
        values["standard"]["extra"] = {"bright": {"kind": "mrbridge_example:clip_bright"}}
        manifest.write_text(json.dumps(values))
        code, _, err = run("serve", "-m", here / "bundle", "--port", "0")
        assert code == 2
        assert "mrbridge_example:clip_bright" in err
        assert "--allow-code" in err
        process, url = self.start(here / "bundle", place, "--allow-code", cwd=here)
        try:
            jobs = url.replace("/?", "/api/jobs?")
            job = httpx.post(jobs, files={"scan": (t1w.name, t1w.read_bytes())}).json()
            deadline = time.monotonic() + 180
            while job["state"] in ("queued", "running"):
                assert time.monotonic() < deadline
                time.sleep(0.2)
                job = httpx.get(url.replace("/?", f"/api/jobs/{job['id']}?")).json()
            assert job["state"] == "done", job
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=120)

    def test_a_port_that_is_taken(self, run: Callable[..., Any], tiny_bundle: Bundle):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            code, _, err = run("serve", "-m", tiny_bundle.path, "--port", port)
        assert code == 2
        assert f"port {port}" in err
        assert "--port" in err
