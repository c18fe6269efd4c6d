"""IXI as BIDS: the scans as they are, whatever happens during the download."""

from __future__ import annotations

import csv
import gzip
import json
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from tests.download.conftest import QUICK, TABLE, Run
from tests.download.server import Served, Server, scan, tar

from mrbridge.download import fetch, folder
from mrbridge.download.folder import RECORD, Report
from mrbridge.download.ixi import download, read_people
from mrbridge.errors import InputError, MrbridgeWarning, OutputError, SettingsError
from mrbridge.io.bids import find_scans, is_bids
from mrbridge.io.lock import only_writer

EVIL = "IXI012-HH-1211-T1.nii.gz"
LOST = "sub-012/anat/sub-012_T1w.nii.gz"


def scans(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.glob("sub-*/anat/sub-*.nii.gz")}


def participants(out: Path) -> dict[str, dict[str, str]]:
    with (out / "participants.tsv").open() as file:
        return {row["participant_id"]: row for row in csv.DictReader(file, delimiter="\t")}


def get(server: Server, out: Path, **options: Any) -> Report:
    return download(out, QUICK.changed({"mirror": server.url} | options))


def entry(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "ixi"


def test_a_bids_data_set_with_licence_and_citation(
    ixi: dict[str, bytes], server: Server, out: Path
) -> None:
    report = get(server, out)
    assert scans(out) == ixi
    assert (report.scans, report.failed) == (7, {})
    assert is_bids(out)
    found = find_scans(out)
    assert {(s.subject, s.contrast) for s in found.scans} >= {("002", "T1w"), ("013", "T2w")}
    assert (len(found.scans), found.ignored) == (7, [])
    about = json.loads((out / "dataset_description.json").read_text())
    assert about["License"] == "CC BY-SA 3.0"
    assert "brain-development.org" in about["HowToAcknowledge"]
    for name in ("LICENSE", "README", "CITATION.cff"):
        assert "brain-development.org/ixi-dataset" in (out / name).read_text()
    assert not [p for p in out.rglob("*") if ".part" in p.name or p.name.startswith(".~")]


class TestSecondRun:
    @pytest.fixture
    def done(self, ixi: dict[str, bytes], server: Server, out: Path) -> Path:
        get(server, out)
        server.requests.clear()
        server.sent = 0
        return out

    def test_downloads_nothing(self, done: Path, server: Server) -> None:
        before = {path: path.stat().st_mtime_ns for path in done.glob("sub-*/anat/*")}
        report = get(server, done)
        assert (report.plan.missing_files, report.plan.missing_bytes) == (0, 0)
        assert {path: path.stat().st_mtime_ns for path in done.glob("sub-*/anat/*")} == before
        assert {path for _, path, _ in server.requests} == {"/IXI-T1.tar", "/IXI-T2.tar"}
        assert server.sent == 2 * 512  # whether the archives changed

    @pytest.mark.parametrize("damage", ["absent", "zeros", "one byte", "another scan"])
    def test_restores_a_lost_or_damaged_scan(
        self, done: Path, ixi: dict[str, bytes], server: Server, damage: str
    ) -> None:
        path, data = done / LOST, bytearray(ixi[LOST])
        if damage == "absent":
            path.unlink()
        elif damage == "zeros":
            path.write_bytes(bytes(len(data)))
        elif damage == "one byte":
            data[200] ^= 1
            path.write_bytes(data)
        else:
            path.write_bytes(ixi["sub-013/anat/sub-013_T1w.nii.gz"])
        assert get(server, done, dry_run=True).plan.missing_files == 1
        report = get(server, done)
        assert (report.scans, report.failed) == (7, {})
        assert scans(done) == ixi
        ranges = [range_ for _, path, range_ in server.requests if path == "/IXI-T1.tar"]
        assert len(ranges) == 3  # whether the archive changed, twice, and that scan

    def test_overwrites_if_asked_to(
        self, done: Path, ixi: dict[str, bytes], server: Server
    ) -> None:
        (done / LOST).write_bytes(b"")
        (done / "mine.txt").write_text("mine")
        report = get(server, done, overwrite=True)
        assert report.plan.missing_files == report.plan.files
        assert scans(done) == ixi
        assert (done / "mine.txt").read_text() == "mine"

    def test_keeps_the_scans_of_an_earlier_version(self, done: Path, server: Server) -> None:
        archive = {"state": {"length": 5}, "scans": {"012": {"offset": 0}}, "complete": True}
        record = {"source": "ixi", "IXI-T1.tar": archive, "table_read": True}
        (done / RECORD).write_text(json.dumps(record))
        assert get(server, done).plan.missing_files == 0

    @pytest.mark.parametrize("validator", ["ETag", "Last-Modified"])
    def test_downloads_a_changed_archive_again(
        self, ixi: dict[str, bytes], server: Server, out: Path, validator: str
    ) -> None:
        archive = server.files["/IXI-T1.tar"]
        for day, new in enumerate([scan(98, (30, 30, 29)), scan(99, (30, 30, 30))], start=3):
            archive.content = tar({EVIL: new}).ljust(100_000, b"\0")
            if validator == "Last-Modified":
                archive.headers = {"ETag": None, validator: f"Mon, {day:02} Mar 2025 10:00:00 GMT"}
            assert get(server, out, contrast=["T1w"]).failed == {}
            assert scans(out)[LOST] == new

    @pytest.mark.parametrize(
        "record",
        [
            *("", "null", "[]", "5", '"x"', "{", "{}", "[" * 5000, "\0", '{"source": 5}'),
            *('{"source": ["ixi"]}', '{"source": "ixi", "version": 5}', '{"source": null}'),
        ],
    )
    def test_refuses_an_edited_record(
        self, done: Path, server: Server, run: Run, record: str
    ) -> None:
        (done / RECORD).write_text(record)
        code, _, err = run("ixi", "-o", done, "--mirror", server.url)
        assert code == 2
        assert "mrbridge-download.json: is damaged or was edited" in err
        assert err.count("\n") == 1

    @pytest.mark.parametrize(
        "archive",
        [
            *(None, 5, "x", [], {}, {"state": None}, {"state": {}}, {"state": "x"}),
            {"state": "5  ", "end": -1},
            {"state": "5  ", "scans": {"../../x": {"offset": 0, "size": 5, "site": "HH"}}},
            {"state": "5  ", "scans": {"012": {"offset": -5, "size": 5, "site": "HH"}}},
            {"state": "5  ", "scans": {"012": {"offset": 5, "site": "HH"}}},
            {"state": "5  ", "scans": [], "end": "x"},
        ],
    )
    def test_refuses_an_edited_record_of_an_archive(
        self, done: Path, server: Server, run: Run, archive: Any
    ) -> None:
        record = json.loads((done / RECORD).read_text())
        record["archives"]["IXI-T1.tar"] = archive
        self.test_refuses_an_edited_record(done, server, run, json.dumps(record))

    @pytest.mark.parametrize("change", [{"end": 10**6}, {"complete": False, "end": 700}])
    def test_survives_edited_numbers(
        self, done: Path, ixi: dict[str, bytes], server: Server, run: Run, change: dict[str, Any]
    ) -> None:
        record = json.loads((done / RECORD).read_text())
        record["archives"]["IXI-T1.tar"] |= change
        record["archives"]["IXI-T1.tar"]["scans"].pop("035")
        (done / RECORD).write_text(json.dumps(record))
        code, _, err = run("ixi", "-o", done, "--mirror", server.url)
        assert code in (0, 1)
        assert "Traceback" not in err
        assert run("ixi", "-o", done, "--mirror", server.url, "--overwrite")[0] == 0
        assert scans(done) == ixi


def test_a_contrast_can_be_added(ixi: dict[str, bytes], server: Server, out: Path) -> None:
    get(server, out, contrast=["T1w"])
    assert all("T1w" in name for name in scans(out))
    get(server, out, contrast=["T2w"])
    assert scans(out) == ixi


class TestSubjects:
    def test_only_these(self, ixi: dict[str, bytes], server: Server, out: Path) -> None:
        report = get(server, out, subjects=["12", "IXI002"])
        assert scans(out) == {k: v for k, v in ixi.items() if k[4:7] in ("002", "012")}
        assert report.scans == 4
        assert set(participants(out)) == {"sub-002", "sub-012"}

    def test_the_rest_of_the_archive_is_not_downloaded(self, server: Server, out: Path) -> None:
        names = [f"IXI{n:03}-HH-1211-T1.nii.gz" for n in range(13, 50)]
        server.files["/IXI-T1.tar"] = Served(
            tar({EVIL: scan(3)} | dict.fromkeys(names, bytes(10**6)))
        )
        with pytest.warns(MrbridgeWarning, match="no age"):
            report = get(server, out, subjects=["12"], contrast=["T1w"])
        assert report.scans == 1
        assert server.sent < 15_000_000  # what was on its way when the connection was closed

    def test_more_of_them_later(self, ixi: dict[str, bytes], server: Server, out: Path) -> None:
        get(server, out, subjects=["13"])
        get(server, out, subjects=["2"])
        get(server, out)
        assert scans(out) == ixi
        assert get(server, out, subjects=["2"]).plan.missing_files == 0

    def test_absent_ones_are_reported_every_time(
        self, ixi: dict[str, bytes], server: Server, out: Path
    ) -> None:
        for _ in range(2):
            report = get(server, out, subjects=["035", "400"])
            assert set(report.failed) == {"sub-400 T1w", "sub-400 T2w", "sub-035 T2w"}
            assert "IXI-T2.tar has no such scan" in report.failed["sub-035 T2w"]
        assert list(scans(out)) == ["sub-035/anat/sub-035_T1w.nii.gz"]

    @pytest.mark.parametrize("subject", ["", "x", "1234", "../1", "-1", "1\n", "١"])
    def test_impossible(self, server: Server, out: Path, subject: str) -> None:
        with pytest.raises(SettingsError, match="is not a subject of IXI"):
            get(server, out, subjects=[subject])


class TestBefore:
    def test_a_dry_run_writes_nothing(
        self, ixi: dict[str, bytes], server: Server, out: Path
    ) -> None:
        report = get(server, out, dry_run=True)
        assert not out.exists()
        assert report.plan.bytes == sum(map(len, ixi.values()))
        assert str(report).startswith("IXI: 7 files, ")
        assert "CC BY-SA 3.0" in str(report)

    def test_a_full_disk_is_noticed(
        self,
        ixi: dict[str, bytes],
        server: Server,
        out: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 8, 1))
        with pytest.raises(OutputError, match="1 byte are free"):
            get(server, out)
        assert not out.exists()

    def test_foreign_folders_stay_as_they_are(self, server: Server, out: Path) -> None:
        out.mkdir()
        (out / "mine").write_text("")
        with pytest.raises(OutputError, match="not started by mrbridge download"):
            get(server, out)
        assert server.requests == []

    def test_two_downloads_into_one_folder(
        self, ixi: dict[str, bytes], server: Server, out: Path
    ) -> None:
        with only_writer(out), pytest.raises(OutputError, match="another download"):
            get(server, out)


@pytest.mark.parametrize(
    "faults",
    [
        [None, ("drop", 500), *[None] * 4, ("drop", 20_000)],
        [503, None, ("drop", 300), 429, ("drop", 1), *[None] * 4, ("drop", 1), 503, ("drop", 9)],
    ],
)
def test_broken_connections_change_nothing(
    ixi: dict[str, bytes], server: Server, out: Path, faults: list[Any]
) -> None:
    server.files["/IXI-T1.tar"].faults = faults
    assert get(server, out).failed == {}
    assert faults == []
    assert scans(out) == ixi


def test_a_server_that_ignores_ranges(ixi: dict[str, bytes], server: Server, out: Path) -> None:
    server.files["/IXI-T1.tar"].ranges = False
    with pytest.raises(InputError, match=r"IXI-T1\.tar cannot be read in parts.*--mirror"):
        get(server, out)
    assert not out.exists()


class TestArchives:
    def test_that_change_during_the_download(
        self, ixi: dict[str, bytes], server: Server, out: Path
    ) -> None:
        names = ["IXI002-Guys-0828-T1.nii.gz", "IXI013-HH-1212-T1.nii.gz"]
        new = {name: scan(70 + n, (30, 30, 30)) for n, name in enumerate(names)}
        server.files["/IXI-T1.tar"].faults = [None] * 5 + [("change", tar(new))]
        report = get(server, out, contrast=["T1w"])
        assert report.scans + len(report.failed) == 4
        assert all(ixi[path] == data for path, data in scans(out).items())
        report = get(server, out, contrast=["T1w"])
        assert (report.scans, report.failed) == (2, {})
        assert scans(out)["sub-002/anat/sub-002_T1w.nii.gz"] == new[names[0]]
        assert scans(out)["sub-013/anat/sub-013_T1w.nii.gz"] == new[names[1]]

    def test_that_are_truncated(self, ixi: dict[str, bytes], server: Server, out: Path) -> None:
        whole = server.files["/IXI-T1.tar"].content
        for cut in (len(whole) // 2, len(whole) // 512 * 512 - 512 * 60, 100):
            server.files["/IXI-T1.tar"] = Served(whole[:cut])
            report = get(server, out)
            assert "not a complete tar file" in report.failed["IXI-T1.tar"]
            assert report.scans >= 3
        server.files["/IXI-T1.tar"] = Served(whole)
        assert get(server, out).failed == {}
        assert scans(out) == ixi

    @pytest.mark.parametrize("content", [b"<html>moved</html>" * 1000, b"x", b"\x1f\x8b" * 999])
    def test_that_are_something_else(
        self, ixi: dict[str, bytes], server: Server, out: Path, content: bytes
    ) -> None:
        server.files["/IXI-T1.tar"] = Served(content)
        report = get(server, out)
        assert "not a complete tar file" in report.failed["IXI-T1.tar"]
        assert report.scans == 3

    @pytest.mark.parametrize("content", [bytes(10240), tar({"README": b"x"}), bytes(10**6)])
    def test_without_scans(
        self, ixi: dict[str, bytes], server: Server, run: Run, out: Path, content: bytes
    ) -> None:
        server.files["/IXI-T1.tar"] = Served(content)
        for _ in range(2):
            code, text, _ = run("ixi", "-o", out, "--mirror", server.url, "--json")
            assert code == 1
            answer = json.loads(text.splitlines()[-1])
            assert answer["failed"] == {"IXI-T1.tar": "contains no scans"}
            assert answer["scans"] == 3

    @pytest.mark.parametrize(
        "header",
        [
            entry(f"../../{EVIL}"),
            entry(f"/tmp/{EVIL}"),
            entry(f"a/../../{EVIL}"),
            entry(EVIL, tarfile.SYMTYPE, linkname="/etc/passwd"),
            entry(EVIL, tarfile.LNKTYPE, linkname="IXI002-Guys-0828-T1.nii.gz"),
            entry(EVIL, tarfile.FIFOTYPE),
            entry(EVIL, tarfile.CHRTYPE, devmajor=1, devminor=5),
        ],
        ids=lambda header: f"{header.name} {header.type.decode()}",
    )
    def test_with_hostile_entries(self, server: Server, out: Path, header: tarfile.TarInfo) -> None:
        names = ["IXI002-Guys-0828-T1.nii.gz", "IXI013-HH-1212-T1.nii.gz"]
        entries = [(entry(names[0]), scan(1)), (header, scan(9)), (entry(names[1]), scan(2))]
        server.files["/IXI.xls"] = Served(TABLE.read_bytes())
        server.files["/IXI-T1.tar"] = Served(tar(entries))
        before = set(out.parent.rglob("*"))
        for _ in range(2):
            assert get(server, out, contrast=["T1w"]).failed == {}
            assert sorted(scans(out).values()) == sorted([scan(1), scan(2)])
            new = set(out.parent.rglob("*")) - before - {out}
            assert all(p.is_relative_to(out) and not p.is_symlink() for p in new)
        assert not (out / "sub-012").exists()

    def test_with_other_entries(self, server: Server, out: Path) -> None:
        server.files["/IXI.xls"] = Served(TABLE.read_bytes())
        entries = [
            (entry("IXI", tarfile.DIRTYPE), b""),
            (entry("x", tarfile.SYMTYPE, linkname="/"), b""),
            (entry("IXI/._IXI002-Guys-0828-T1.nii.gz"), b"x"),
            (entry("IXI/README"), b"x" * 3000),
            (entry("IXI/" + "x" * 300), b"x" * 3000),  # has an extended header
            (entry(f"..\\{EVIL}"), scan(3)),
            (entry("./IXI/IXI002-Guys-0828-T1.nii.gz"), scan(1)),
            (entry("IXI/IXI002-Guys-0828-T2.nii.gz"), scan(2)),
        ]
        server.files["/IXI-T1.tar"] = Served(tar(entries))
        assert get(server, out, contrast=["T1w"]).failed == {}
        assert scans(out) == {"sub-002/anat/sub-002_T1w.nii.gz": scan(1)}

    def test_with_damaged_scans_and_bombs(
        self,
        ixi: dict[str, bytes],
        server: Server,
        out: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(fetch, "MAX_UNPACKED", 1_000_000)
        bad = {
            "IXI012-HH-1211-T1.nii.gz": gzip.compress(bytes(2_000_000)),
            "IXI013-HH-1212-T1.nii.gz": scan(1)[:-3],
            "IXI014-HH-1236-T1.nii.gz": b"no gzip",
        }
        server.files["/IXI-T1.tar"] = Served(tar(bad | {"IXI035-IOP-0873-T1.nii.gz": scan(2)}))
        for _ in range(2):
            report = get(server, out, contrast=["T1w"])
            assert {path[4:7] for path in report.failed} == {name[3:6] for name in bad}
            assert scans(out) == {"sub-035/anat/sub-035_T1w.nii.gz": scan(2)}
        repaired = {name: scan(30 + n) for n, name in enumerate(bad)}
        server.files["/IXI-T1.tar"] = Served(tar(repaired))
        assert get(server, out, contrast=["T1w"]).failed == {}
        assert len(scans(out)) == 4

    @pytest.mark.parametrize("size", [1 << 40, 1 << 62, -(1 << 20)])
    @pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
    def test_with_impossible_sizes(
        self,
        ixi: dict[str, bytes],
        server: Server,
        out: Path,
        size: int,
        kind: bytes,
    ) -> None:
        header = entry(EVIL, kind, size=size).tobuf(tarfile.GNU_FORMAT)
        server.files["/IXI-T1.tar"] = Served(header + bytes(5000))
        report = get(server, out, contrast=["T1w"])
        assert "ends outside of it" in report.failed["IXI-T1.tar"]
        assert scans(out) == {}


class TestParticipants:
    def test_age_and_sex_without_dates_of_birth(
        self, ixi: dict[str, bytes], server: Server, out: Path
    ) -> None:
        get(server, out)
        rows = participants(out)
        assert rows["sub-002"] == {
            "participant_id": "sub-002",
            "site": "Guys",
            "sex": "F",
            "age": "35.8",
            "height": "164",
            "weight": "58",
        }
        assert rows["sub-013"]["site"] == "HH"
        assert rows["sub-013"]["age"] == "n/a"  # not in the table
        assert rows["sub-035"]["age"] == "n/a"  # in the table without an age
        levels = json.loads((out / "participants.json").read_text())["site"]["Levels"]
        assert {row["site"] for row in rows.values()} <= set(levels)
        assert not (out / "sourcedata").exists()

    def test_rows_that_disagree(self) -> None:
        people = read_people(TABLE.read_bytes())
        assert list(people.loc["sub-015"]) == ["M", "24.22", "181", "90"]
        assert people.loc["sub-002", "sex"] == "F"

    def test_a_damaged_table_is_refused_or_read(self) -> None:
        random_, whole = random.Random(0), TABLE.read_bytes()
        refused = 0
        for _ in range(200):
            data = bytearray(whole)
            for _ in range(random_.choice([1, 8, 64])):
                data[random_.randrange(len(data))] = random_.randrange(256)
            try:
                read_people(bytes(data))
            except ValueError:
                refused += 1
        assert 0 < refused < 200

    def test_what_users_added_stays(self, ixi: dict[str, bytes], server: Server, out: Path) -> None:
        get(server, out, subjects=["2"])
        table = out / "participants.tsv"
        head, row = table.read_text().splitlines()
        table.write_text(f"{head}\tsplit\n{row}\ttest\n")
        get(server, out)
        rows = participants(out)
        assert rows["sub-002"]["split"] == "test"
        assert rows["sub-012"]["split"] == "n/a"
        assert list(rows) == ["sub-002", "sub-012", "sub-013", "sub-035"]

    def test_are_completed_when_the_table_can_be_downloaded_again(
        self, ixi: dict[str, bytes], server: Server, out: Path
    ) -> None:
        table = server.files.pop("/IXI.xls")
        with pytest.warns(MrbridgeWarning, match=r"no age and sex.*IXI\.xls is refused \(404"):
            assert get(server, out).failed == {}
        assert participants(out)["sub-002"]["site"] == "Guys"
        server.files["/IXI.xls"] = table
        get(server, out)
        assert participants(out)["sub-002"]["age"] == "35.8"

    @pytest.mark.parametrize(
        "content",
        ["a\tb\n1\t2\n", "participant_id\nsub-002\tx\n", "", "\0", '"', "participant_id\na\na\n"],
    )
    def test_a_table_that_users_damaged(
        self, ixi: dict[str, bytes], server: Server, out: Path, content: str
    ) -> None:
        get(server, out, subjects=["2"])
        (out / "participants.tsv").write_text(content)
        with pytest.raises(InputError, match="is not a table of participants"):
            get(server, out)
        assert (out / "participants.tsv").read_text() == content

    @pytest.mark.parametrize("content", [b"", b"no table", b"\xd0\xcf\x11\xe0" + bytes(600)])
    def test_an_unreadable_table_of_the_site(
        self, ixi: dict[str, bytes], server: Server, out: Path, content: bytes
    ) -> None:
        server.files["/IXI.xls"] = Served(content)
        with pytest.warns(MrbridgeWarning, match="the table cannot be read"):
            get(server, out)
        assert participants(out)["sub-002"]["site"] == "Guys"
        assert participants(out)["sub-002"]["age"] == "n/a"


@pytest.mark.parametrize(
    ("kind", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 3), (signal.SIGINT, 3)]
)
def test_a_signal_in_the_middle(
    ixi: dict[str, bytes],
    server: Server,
    out: Path,
    kind: signal.Signals,
    code: int,
) -> None:
    server.files["/IXI-T1.tar"].slow = server.files["/IXI-T2.tar"].slow = 0.1
    command = [sys.executable, "-m", "mrbridge.cli", "download", "ixi", "--mirror", server.url]
    child = subprocess.Popen([*command, "-o", str(out)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not scans(out) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(kind)
    _, messages = child.communicate()
    assert child.returncode == code, messages
    if code == 3:
        plan, error = messages.splitlines()
        assert plan.startswith("IXI: 7 files, ")
        assert "resumes from here" in error
    arrived = scans(out)
    assert 0 < len(arrived) < len(ixi)
    assert all(ixi[name] == data for name, data in arrived.items())
    server.files["/IXI-T1.tar"].slow = server.files["/IXI-T2.tar"].slow = 0
    get(server, out)
    assert scans(out) == ixi
    assert not [p for p in out.rglob("*") if p.name.startswith(".~") or ".part" in p.name]


def test_a_full_disk_during_the_download(
    ixi: dict[str, bytes],
    server: Server,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(path: Path, value: Any) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(folder, "write_json", full)
    with pytest.raises(OutputError, match="No space left"):
        get(server, out)
