"""IXI as BIDS: the scans as they are, whatever happens on the way; nothing evil gets out."""

from __future__ import annotations

import csv
import gzip
import json
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from tests.download.conftest import TABLE
from tests.download.server import Served, Server, scan, tar

from mrbridge.download import archive
from mrbridge.download.http import Session
from mrbridge.download.ixi import download_ixi
from mrbridge.download.ixi_subjects import read_people
from mrbridge.download.report import Report
from mrbridge.errors import InputError, MrbridgeWarning, OutputError, SettingsError
from mrbridge.io.bids import find_scans, is_bids


def scans(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.glob("sub-*/anat/sub-*.nii.gz")}


def participants(out: Path) -> dict[str, dict[str, str]]:
    with (out / "participants.tsv").open() as file:
        return {row["participant_id"]: row for row in csv.DictReader(file, delimiter="\t")}


def get(session: Session, server: Server, out: Path, **more: Any) -> Report:
    return download_ixi(session, out, site=server.url, **more)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "ixi"


def test_all_of_it(ixi: dict[str, bytes], server: Server, session: Session, out: Path) -> None:
    report = get(session, server, out)
    assert scans(out) == ixi
    assert (report.scans, report.failed) == (7, {})
    assert is_bids(out)
    found = find_scans(out)
    assert {(s.subject, s.contrast) for s in found.scans} >= {("002", "T1w"), ("013", "T2w")}
    assert len(found.scans) == 7
    assert found.ignored == []  # what stands beside them is no news to prepare
    about = json.loads((out / "dataset_description.json").read_text())
    assert about["License"] == "CC BY-SA 3.0"
    assert "brain-development.org" in about["HowToAcknowledge"]
    for name in ("LICENSE", "README", "CITATION.cff"):
        assert "brain-development.org/ixi-dataset" in (out / name).read_text()
    assert not [p for p in out.rglob("*") if ".part" in p.name or p.name.startswith(".~")]


def test_one_stream_for_each_archive(
    ixi: dict[str, bytes], server: Server, session: Session, out: Path
) -> None:
    get(session, server, out)
    assert [where for _, path, where in server.requests if path == "/IXI-T1.tar"] == [None, None]


def test_a_second_run_transfers_nothing(
    ixi: dict[str, bytes], server: Server, session: Session, out: Path
) -> None:
    get(session, server, out)
    before = {p: p.stat().st_mtime_ns for p in out.glob("sub-*/anat/*")}
    server.requests.clear()
    report = get(session, server, out)
    assert (report.plan.missing_files, report.plan.missing_bytes) == (0, 0)
    assert {p: p.stat().st_mtime_ns for p in out.glob("sub-*/anat/*")} == before
    assert len(server.requests) == 2  # whether the archives are still the same


def test_overwriting_fetches_all_again(
    ixi: dict[str, bytes], server: Server, session: Session, out: Path
) -> None:
    get(session, server, out)
    name = "sub-012/anat/sub-012_T1w.nii.gz"
    changed = bytes(len(ixi[name]))  # of the same size, so that nothing else tells
    (out / name).write_bytes(changed)
    (out / "mine.txt").write_text("mine")
    get(session, server, out)
    assert (out / name).read_bytes() == changed
    report = get(session, server, out, overwrite=True)
    assert report.plan.missing_files == report.plan.files
    assert scans(out) == ixi
    assert (out / "mine.txt").read_text() == "mine"


def test_a_lost_scan_comes_again(
    ixi: dict[str, bytes], server: Server, session: Session, out: Path
) -> None:
    get(session, server, out)
    (out / "sub-012/anat/sub-012_T1w.nii.gz").unlink()
    get(session, server, out)
    assert scans(out) == ixi


def test_a_changed_archive_comes_again(
    ixi: dict[str, bytes], server: Server, session: Session, out: Path
) -> None:
    get(session, server, out)
    new = scan(99, (30, 30, 30))
    server.files["/IXI-T1.tar"] = Served(tar({"IXI012-HH-1211-T1.nii.gz": new}))
    get(session, server, out, contrasts=["T1w"])
    assert scans(out)["sub-012/anat/sub-012_T1w.nii.gz"] == new


def test_a_contrast_can_be_added(
    ixi: dict[str, bytes], server: Server, session: Session, out: Path
) -> None:
    get(session, server, out, contrasts=["T1w"])
    assert all("T1w" in name for name in scans(out))
    get(session, server, out, contrasts=["T2w"])
    assert scans(out) == ixi


class TestSubjects:
    def test_only_these(
        self, ixi: dict[str, bytes], server: Server, session: Session, out: Path
    ) -> None:
        report = get(session, server, out, subjects=["12", "IXI002"])
        assert scans(out) == {k: v for k, v in ixi.items() if k[4:7] in ("002", "012")}
        assert report.scans == 4
        assert set(participants(out)) == {"sub-002", "sub-012"}

    def test_the_rest_is_not_transferred(self, server: Server, session: Session, out: Path) -> None:
        # Each is wider than what is read through.
        names = [f"IXI{n:03}-HH-1211-T1.nii.gz" for n in range(2, 12)]
        server.files["/IXI-T1.tar"] = Served(
            tar(dict.fromkeys(names, bytes(3_000_000)) | {"IXI012-HH-1211-T1.nii.gz": scan(3)})
        )
        with pytest.warns(MrbridgeWarning, match="no ages"):
            report = get(session, server, out, subjects=["12"], contrasts=["T1w"])
        assert report.scans == 1
        assert len([where for _, _, where in server.requests if where]) == 10
        assert server.sent < 12_000_000  # two answers without an end were broken off
        assert server.connections <= 4

    def test_then_all(
        self, ixi: dict[str, bytes], server: Server, session: Session, out: Path
    ) -> None:
        get(session, server, out, subjects=["13"])
        get(session, server, out)
        assert scans(out) == ixi
        server.requests.clear()
        assert get(session, server, out, subjects=["2"]).plan.missing_files == 0

    def test_absent_ones_are_told_every_time(
        self, ixi: dict[str, bytes], server: Server, session: Session, out: Path
    ) -> None:
        for _ in range(2):
            report = get(session, server, out, subjects=["035", "400"])
            assert set(report.failed) == {"sub-400 T1w", "sub-400 T2w", "sub-035 T2w"}
            assert "IXI-T2.tar has no such scan" in report.failed["sub-035 T2w"]
        assert list(scans(out)) == ["sub-035/anat/sub-035_T1w.nii.gz"]

    @pytest.mark.parametrize("subject", ["", "x", "1234", "../1", "-1"])
    def test_impossible(self, server: Server, session: Session, out: Path, subject: str) -> None:
        with pytest.raises(SettingsError, match="is not a subject of IXI"):
            get(session, server, out, subjects=[subject])


class TestPlan:
    def test_a_dry_run_writes_nothing(
        self, ixi: dict[str, bytes], server: Server, session: Session, out: Path
    ) -> None:
        report = get(session, server, out, dry_run=True)
        assert not out.exists()
        assert report.plan.files == 2
        assert report.plan.bytes == sum(
            len(server.files[f"/IXI-{c}.tar"].content) for c in ("T1", "T2")
        )
        assert "2 archives" in report.in_words()
        assert "CC BY-SA 3.0" in report.in_words()

    def test_a_full_disk_is_noticed_before(
        self,
        ixi: dict[str, bytes],
        server: Server,
        session: Session,
        out: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        import shutil

        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 8, 1))
        with pytest.raises(OutputError, match="1 bytes are free"):
            get(session, server, out)
        assert not out.exists()

    def test_foreign_folders_are_left_alone(
        self, ixi: dict[str, bytes], server: Server, session: Session, out: Path
    ) -> None:
        out.mkdir()
        (out / "mine").write_text("")
        with pytest.raises(OutputError, match="not begun by mrbridge download"):
            get(session, server, out)
        assert server.requests == []

    def test_unknown_contrasts(self, server: Server, session: Session, out: Path) -> None:
        with pytest.raises(SettingsError, match="IXI has no FLAIR archive"):
            get(session, server, out, contrasts=["FLAIR"])


@pytest.mark.parametrize(
    "faults",
    [[None, ("drop", 50_000)], [503, None, ("drop", 30_000), 429, ("drop", 1), ("drop", 60_000)]],
)
@pytest.mark.parametrize("ranges", [True, False])
def test_broken_connections_change_nothing(
    ixi: dict[str, bytes],
    server: Server,
    session: Session,
    out: Path,
    faults: list[Any],
    ranges: bool,
) -> None:
    server.files["/IXI-T1.tar"].faults = faults
    server.files["/IXI-T1.tar"].ranges = ranges
    assert get(session, server, out).failed == {}
    assert scans(out) == ixi


def test_an_archive_that_changes_on_the_way(
    ixi: dict[str, bytes], server: Server, session: Session, out: Path
) -> None:
    names = ["IXI002-Guys-0828-T1.nii.gz", "IXI013-HH-1212-T1.nii.gz"]
    new = {name: scan(70 + n, (30, 30, 30)) for n, name in enumerate(names)}
    server.files["/IXI-T1.tar"].faults = [None, None, ("change", tar(new))]
    get(session, server, out, contrasts=["T1w"], subjects=["2", "12"])  # uses up the first two
    report = get(session, server, out, contrasts=["T1w"])
    assert report.failed == {}
    assert scans(out)["sub-002/anat/sub-002_T1w.nii.gz"] == new[names[0]]
    assert scans(out)["sub-013/anat/sub-013_T1w.nii.gz"] == new[names[1]]


def test_an_archive_that_is_cut(
    ixi: dict[str, bytes], server: Server, session: Session, out: Path
) -> None:
    whole = server.files["/IXI-T1.tar"].content
    for cut in (len(whole) // 2, len(whole) // 512 * 512 - 512 * 60):
        server.files["/IXI-T1.tar"] = Served(whole[:cut])
        report = get(session, server, out)
        assert "not a complete tar file" in report.failed["IXI-T1.tar"]
        assert report.scans >= 3
    server.files["/IXI-T1.tar"] = Served(whole)
    assert get(session, server, out).failed == {}
    assert scans(out) == ixi


def test_an_archive_that_is_none(
    ixi: dict[str, bytes], server: Server, session: Session, out: Path
) -> None:
    server.files["/IXI-T1.tar"] = Served(b"<html>moved</html>" * 1000)
    report = get(session, server, out)
    assert "not a complete tar file" in report.failed["IXI-T1.tar"]
    assert report.scans == 3


def entry(name: str, kind: bytes = tarfile.REGTYPE, **more: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in more.items():
        setattr(info, key, value)
    return info


EVIL = "IXI012-HH-1211-T1.nii.gz"


class TestEvilArchives:
    @pytest.mark.parametrize(
        "header",
        [
            entry(f"../../{EVIL}"),
            entry(f"/tmp/{EVIL}"),
            entry(f"a/../../{EVIL}"),
            entry(f"..\\{EVIL}"),
            entry(EVIL, tarfile.SYMTYPE, linkname="/etc/passwd"),
            entry(EVIL, tarfile.LNKTYPE, linkname="IXI002-Guys-0828-T1.nii.gz"),
            entry(EVIL, tarfile.FIFOTYPE),
            entry(EVIL, tarfile.CHRTYPE, devmajor=1, devminor=5),
            entry("x", tarfile.SYMTYPE, linkname="/"),
        ],
        ids=lambda header: f"{header.name} {header.type.decode()}",
    )
    def test_hostile_entries_are_named_and_the_others_come(
        self, server: Server, session: Session, out: Path, header: tarfile.TarInfo
    ) -> None:
        good = [scan(1), scan(2)]
        server.files["/IXI.xls"] = Served(TABLE.read_bytes())
        server.files["/IXI-T1.tar"] = Served(
            tar(
                [
                    (entry("IXI002-Guys-0828-T1.nii.gz"), good[0]),
                    (header, scan(9)),
                    (entry("IXI013-HH-1212-T1.nii.gz"), good[1]),
                ]
            )
        )
        before = set(out.parent.rglob("*"))
        report = get(session, server, out, contrasts=["T1w"])
        assert list(report.failed) == [ascii(header.name)]
        assert scans(out) == {
            "sub-002/anat/sub-002_T1w.nii.gz": good[0],
            "sub-013/anat/sub-013_T1w.nii.gz": good[1],
        }
        new = set(out.parent.rglob("*")) - before - {out}
        assert all(p.is_relative_to(out) and not p.is_symlink() for p in new)
        assert not (out / "sub-012").exists()

    def test_folders_and_other_files_are_passed_over(
        self, server: Server, session: Session, out: Path
    ) -> None:
        server.files["/IXI.xls"] = Served(TABLE.read_bytes())
        pairs = [
            (entry("IXI", tarfile.DIRTYPE), b""),
            (entry("IXI/._IXI002-Guys-0828-T1.nii.gz"), b"x"),
            (entry("IXI/README"), b"x" * 3000),
            (entry("./IXI/IXI002-Guys-0828-T1.nii.gz"), scan(1)),
            (entry("IXI/IXI002-Guys-0828-T2.nii.gz"), scan(2)),
        ]
        server.files["/IXI-T1.tar"] = Served(tar(pairs))
        assert get(session, server, out, contrasts=["T1w"]).failed == {}
        assert scans(out) == {"sub-002/anat/sub-002_T1w.nii.gz": scan(1)}

    def test_damaged_scans_and_bombs(
        self,
        ixi: dict[str, bytes],
        server: Server,
        session: Session,
        out: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        from mrbridge.download import files

        monkeypatch.setattr(files, "MAX_UNPACKED", 1_000_000)
        bad = {
            "IXI012-HH-1211-T1.nii.gz": gzip.compress(bytes(2_000_000)),
            "IXI013-HH-1212-T1.nii.gz": scan(1)[:-3],
            "IXI014-HH-1236-T1.nii.gz": b"no gzip",
        }
        server.files["/IXI-T1.tar"] = Served(tar(bad | {"IXI035-IOP-0873-T1.nii.gz": scan(2)}))
        for _ in range(2):  # a second run says it again
            report = get(session, server, out, contrasts=["T1w"])
            assert set(report.failed) == {ascii(name) for name in bad}
        assert scans(out) == {"sub-035/anat/sub-035_T1w.nii.gz": scan(2)}
        mended = {name: scan(30 + n) for n, name in enumerate(bad)}
        server.files["/IXI-T1.tar"] = Served(tar(mended))
        assert get(session, server, out, contrasts=["T1w"]).failed == {}
        assert len(scans(out)) == 4

    def test_a_scan_that_says_it_is_huge(
        self, ixi: dict[str, bytes], server: Server, session: Session, out: Path
    ) -> None:
        header = entry("IXI002-Guys-0828-T1.nii.gz")
        header.size = 1 << 40
        server.files["/IXI-T1.tar"] = Served(header.tobuf() + bytes(5000))
        report = get(session, server, out, contrasts=["T1w"])
        assert "an entry ends beyond its end" in report.failed["IXI-T1.tar"]
        assert scans(out) == {}

    def test_a_name_that_says_it_is_huge(
        self, ixi: dict[str, bytes], server: Server, session: Session, out: Path
    ) -> None:
        header = entry("././@LongLink", tarfile.GNUTYPE_LONGNAME)
        header.size = 1 << 33
        server.files["/IXI-T1.tar"] = Served(header.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 21))
        report = get(session, server, out, contrasts=["T1w"])
        assert "not a tar file of scans" in report.failed["IXI-T1.tar"]

    def test_too_many_entries(
        self,
        server: Server,
        session: Session,
        out: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(archive, "MAX_MEMBERS", 5)
        server.files["/IXI-T1.tar"] = Served(tar({f"x{n}": b"" for n in range(9)}))
        report = get(session, server, out, contrasts=["T1w"])
        assert "more than 5 entries" in report.failed["IXI-T1.tar"]


class TestTable:
    def test_what_it_tells(
        self, ixi: dict[str, bytes], server: Server, session: Session, out: Path
    ) -> None:
        get(session, server, out)
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
        assert not (out / "sourcedata").exists()  # the table tells dates of birth

    def test_rows_that_disagree_are_unknown_in_that(self) -> None:
        people = read_people(TABLE.read_bytes())
        assert people[15] == {"sex": "M", "age": "24.22", "height": "181", "weight": "90"}
        assert people[2]["sex"] == "F"

    def test_a_damaged_one_is_refused_or_read(self) -> None:
        chance, whole = random.Random(0), TABLE.read_bytes()
        refused = 0
        for _ in range(300):
            data = bytearray(whole)
            for _ in range(chance.choice([1, 8, 64])):
                data[chance.randrange(len(data))] = chance.randrange(256)
            try:
                read_people(bytes(data))
            except ValueError:
                refused += 1
        assert 0 < refused < 300

    def test_what_people_added_stays(
        self, ixi: dict[str, bytes], server: Server, session: Session, out: Path
    ) -> None:
        get(session, server, out, subjects=["2"])
        table = out / "participants.tsv"
        head, row = table.read_text().splitlines()
        table.write_text(f"{head}\tsplit\n{row}\ttest\n")
        get(session, server, out)
        rows = participants(out)
        assert rows["sub-002"]["split"] == "test"
        assert rows["sub-012"]["split"] == "n/a"
        assert len(rows) == 4

    def test_out_of_reach(
        self, ixi: dict[str, bytes], server: Server, session: Session, out: Path
    ) -> None:
        del server.files["/IXI.xls"]
        with pytest.warns(MrbridgeWarning, match=r"no ages and sexes.*IXI\.xls does not exist"):
            report = get(session, server, out)
        assert report.failed == {}
        assert participants(out)["sub-002"]["site"] == "Guys"

    def test_out_of_reach_once(
        self, ixi: dict[str, bytes], server: Server, session: Session, out: Path
    ) -> None:
        table = server.files.pop("/IXI.xls")
        with pytest.warns(MrbridgeWarning, match="no ages"):
            get(session, server, out)
        server.files["/IXI.xls"] = table
        get(session, server, out)
        assert participants(out)["sub-002"]["age"] == "35.8"

    @pytest.mark.parametrize("content", ["a\tb\n1\t2\n", "participant_id\nsub-002\tx\n"])
    def test_a_table_that_people_spoiled(
        self, ixi: dict[str, bytes], server: Server, session: Session, out: Path, content: str
    ) -> None:
        get(session, server, out, subjects=["2"])
        (out / "participants.tsv").write_text(content)
        with pytest.raises(InputError, match="is no longer a table of participants"):
            get(session, server, out)
        assert (out / "participants.tsv").read_text() == content

    @pytest.mark.parametrize("content", [b"", b"no table", b"\xd0\xcf\x11\xe0" + bytes(600)])
    def test_unreadable(
        self, ixi: dict[str, bytes], server: Server, session: Session, out: Path, content: bytes
    ) -> None:
        server.files["/IXI.xls"] = Served(content)
        with pytest.warns(MrbridgeWarning, match="the table cannot be read"):
            get(session, server, out)
        assert (out / "sourcedata" / "IXI.xls").read_bytes() == content
        assert find_scans(out).scans
        assert participants(out)["sub-002"]["site"] == "Guys"


def test_two_writers(ixi: dict[str, bytes], server: Server, session: Session, out: Path) -> None:
    from mrbridge.download.folder import Folder

    with (
        Folder(out, {"source": "ixi"}).writing(),
        pytest.raises(OutputError, match="another download"),
    ):
        get(session, server, out)


def test_no_network(session: Session, out: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be reached.*Check the network"):
        download_ixi(session, out, site="http://127.0.0.1:9")
    assert not out.exists()


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 3)])
def test_a_kill_in_the_middle(
    ixi: dict[str, bytes],
    server: Server,
    session: Session,
    out: Path,
    kind: signal.Signals,
    code: int,
) -> None:
    server.files["/IXI-T1.tar"].slow = server.files["/IXI-T2.tar"].slow = 0.1
    command = [sys.executable, "-m", "mrbridge.cli", "download", "ixi", "--mirror", server.url]
    child = subprocess.Popen([*command, "-o", str(out)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 20
    while not scans(out) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(kind)
    _, told = child.communicate()
    assert child.returncode == code, told
    if code == 3:
        plan, error = told.splitlines()
        assert plan.startswith("IXI: 2 archives, ")
        assert "goes on from here" in error
    came = scans(out)
    assert 0 < len(came) < len(ixi)
    assert all(ixi[name] == data for name, data in came.items())
    server.files["/IXI-T1.tar"].slow = server.files["/IXI-T2.tar"].slow = 0
    server.sent = 0
    get(session, server, out)
    assert scans(out) == ixi
    left = [p for p in out.rglob("*") if p.name.startswith(".~") or ".part" in p.name]
    assert left == []
