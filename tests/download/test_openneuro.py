"""One snapshot of OpenNeuro: only what is wanted, checked by the archive's own checksums."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.download.server import Served, Server, scan

from mrbridge.download.http import Session
from mrbridge.download.openneuro import TERMS, download_openneuro
from mrbridge.download.report import Report
from mrbridge.errors import InputError, Interrupted, OutputError
from mrbridge.io.bids import find_scans, is_bids

ABOUT = {
    "Name": "Invented",
    "License": "CC0",
    "Authors": ["Ada Example", "Bo Beispiel"],
    "DatasetDOI": "doi:10.18112/openneuro.ds002330.v1.1.0",
    "HowToAcknowledge": "Cite the paper.",
}
WANTED = {
    "dataset_description.json": json.dumps({"Name": "Invented", "BIDSVersion": "1.2.0"}).encode(),
    "participants.tsv": b"participant_id\nsub-01\nsub-02\n",
    "participants.json": b"{}",
    "README": b"words",
    "CHANGES": b"1.1.0",
    "T1w.json": b'{"MagneticFieldStrength": 3}',
    "sub-01/anat/sub-01_T1w.nii.gz": scan(1),
    "sub-01/anat/sub-01_T1w.json": b'{"EchoTime": 0.002}',
    "sub-01/anat/sub-01_acq-fast_T2w.nii.gz": scan(2),
    "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz": scan(3),
    "sub-02/ses-a/anat/sub-02_ses-a_run-1_T2w.nii.gz": scan(4),
    "sub-02/ses-b/sub-02_ses-b_T2w.json": b"{}",
}
UNWANTED = {
    "task-rest_bold.json": b"{}",
    "dwi.bval": b"0",
    ".bidsignore": b"",
    "sub-01/anat/sub-01_FLAIR.nii.gz": scan(5),
    "sub-01/anat/sub-01_ce-gad_T1w.nii.gz": scan(6),
    "sub-01/anat/sub-01_T1w_defacemask.nii.gz": scan(7),
    "sub-01/func/sub-01_task-rest_bold.nii.gz": scan(8),
    "sub-01/sub-01_scans.tsv": b"filename\tacq_time\n",
    "derivatives/sub-01/anat/sub-01_T1w.nii.gz": scan(9),
    "code/sub-01/anat/sub-01_T1w.json": b"{}",
    "sub-02/ses-a/func/sub-02_ses-a_task-rest_T1w.nii.gz": scan(10),
}


class OpenNeuro:
    """GraphQL answers in the form of docs.openneuro.org/api.html, and the bucket beside it."""

    def __init__(self, server: Server, content: dict[str, bytes]) -> None:
        self.server, self.content = server, dict(content)
        self.about: dict[str, Any] = dict(ABOUT)
        self.passing: list[str] = []
        self.asked: list[str | None] = []
        self.changes: dict[str, dict[str, Any]] = {}
        server.graphql = self.answer
        for path, data in content.items():
            md5 = hashlib.md5(data).hexdigest()
            headers = {"ETag": f'"{md5}"', "x-amz-request-id": "1"}
            server.files[f"/s3/ds002330/{path}"] = Served(data, dict(headers))

    def file(self, path: str) -> Served:
        return self.server.files[f"/s3/ds002330/{path}"]

    def answer(self, question: dict[str, Any]) -> Any:
        if self.passing:
            return {"errors": [{"message": self.passing.pop(0)}], "data": None}
        told = question["variables"]
        if "latestSnapshot" in question["query"]:
            if told["dataset"] != "ds002330":
                return {"errors": [{"message": "Dataset not found."}], "data": {"dataset": None}}
            tags = [{"tag": "1.0.0"}, {"tag": "1.1.0"}]
            known = {"id": "ds002330", "snapshots": tags, "latestSnapshot": {"tag": "1.1.0"}}
            return {"data": {"dataset": known}}
        assert (told["dataset"], told["tag"]) == ("ds002330", "1.1.0")
        tree = told.get("tree")
        self.asked.append(tree)
        above = bytes.fromhex(tree).decode() if tree else ""
        snapshot = {"id": "ds002330:1.1.0", "tag": "1.1.0", "files": self.entries(above)}
        return {"data": {"snapshot": snapshot | ({} if tree else {"description": self.about})}}

    def entries(self, above: str) -> list[dict[str, Any]]:
        below = [path.removeprefix(above) for path in self.content if path.startswith(above)]
        entries = []
        for name in dict.fromkeys(path.split("/")[0] for path in below):
            entry: dict[str, Any] = {"filename": name, "urls": [], "annexed": False, "size": 0}
            if f"{above}{name}" in self.content:
                data = self.content[f"{above}{name}"]
                url = f"{self.server.url}/s3/ds002330/{above}{name}?versionId=x"
                entry |= {"size": len(data), "urls": [url], "directory": False}
                entry["id"] = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
                if name.endswith(".nii.gz"):
                    md5 = hashlib.md5(data).hexdigest()
                    entry |= {"id": f"MD5E-s{len(data)}--{md5}.nii.gz", "annexed": True}
                entry |= self.changes.get(f"{above}{name}", {})
            else:
                entry |= {"id": f"{above}{name}/".encode().hex(), "directory": True}
            entries.append(entry)
        return entries


@pytest.fixture
def archive(server: Server) -> OpenNeuro:
    return OpenNeuro(server, WANTED | UNWANTED)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "ds"


def get(session: Session, archive: OpenNeuro, out: Path, **more: Any) -> Report:
    return download_openneuro(session, "ds002330", out, site=archive.server.url, **more)


def held(out: Path) -> dict[str, bytes]:
    """What the archive has, without what is written beside it."""
    beside = {"LICENSE", "CITATION.cff", ".mrbridge-download.json"}
    files = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    return {name: data for name, data in files.items() if name not in beside}


def test_what_is_wanted_and_no_more(archive: OpenNeuro, session: Session, out: Path) -> None:
    report = get(session, archive, out)
    assert held(out) == WANTED
    assert (report.scans, report.failed) == (4, {})
    assert report.plan.files == len(WANTED)
    assert report.plan.bytes == sum(map(len, WANTED.values()))
    assert is_bids(out)
    found = {(s.subject, s.session, s.contrast) for s in find_scans(out).scans}
    assert found == {
        ("01", None, "T1w"),
        ("01", None, "T2w"),
        ("02", "a", "T1w"),
        ("02", "a", "T2w"),
    }


def test_only_folders_that_can_hold_scans_are_listed(
    archive: OpenNeuro, session: Session, out: Path
) -> None:
    get(session, archive, out)
    asked = {bytes.fromhex(tree or "").decode() for tree in archive.asked}
    assert asked == {
        *("", "sub-01/", "sub-01/anat/", "sub-02/", "sub-02/ses-a/"),
        *("sub-02/ses-a/anat/", "sub-02/ses-b/"),
    }


def test_licence_and_citation(archive: OpenNeuro, session: Session, out: Path) -> None:
    report = get(session, archive, out)
    assert report.plan.licence == "CC0"
    licence = (out / "LICENSE").read_text()
    assert "CC0" in licence
    assert TERMS in licence
    assert "Cite the paper." in licence
    citation = yaml.safe_load((out / "CITATION.cff").read_text())
    assert citation["doi"] == "10.18112/openneuro.ds002330.v1.1.0"
    assert [author["name"] for author in citation["authors"]] == ABOUT["Authors"]
    assert citation["version"] == "1.1.0"
    assert citation["license"] == "CC0-1.0"


def test_its_own_licence_and_citation_stay(server: Server, session: Session, out: Path) -> None:
    own = {"LICENSE": b"PDDL", "CITATION.cff": b"cff-version: 1.2.0\n"}
    get(session, OpenNeuro(server, WANTED | own), out)
    assert {name: (out / name).read_bytes() for name in own} == own


def test_a_second_run_transfers_nothing(archive: OpenNeuro, session: Session, out: Path) -> None:
    get(session, archive, out)
    archive.server.requests.clear()
    report = get(session, archive, out)
    assert (report.plan.missing_files, report.plan.missing_bytes) == (0, 0)
    assert [r for r in archive.server.requests if r[0] == "GET"] == []


def test_overwriting_fetches_scans_again_and_keeps_tables(
    archive: OpenNeuro, session: Session, out: Path
) -> None:
    get(session, archive, out)
    name, table = "sub-01/anat/sub-01_T1w.nii.gz", out / "participants.tsv"
    (out / name).write_bytes(bytes(len(WANTED[name])))
    table.write_text("participant_id\tsplit\nsub-01\ttest\n")
    get(session, archive, out, overwrite=True)
    assert (out / name).read_bytes() == WANTED[name]
    assert "split" in table.read_text()


def test_contrasts_and_subjects(archive: OpenNeuro, session: Session, out: Path) -> None:
    report = get(session, archive, out, contrasts=["FLAIR"], subjects=["sub-01"])
    scans = [name for name in held(out) if name.endswith(".gz")]
    assert scans == ["sub-01/anat/sub-01_FLAIR.nii.gz"]
    assert report.scans == 1
    with pytest.raises(InputError, match=r"has no scans of FLAIR.*other --subjects"):
        get(session, archive, out.with_name("x"), contrasts=["FLAIR"], subjects=["02"])
    with pytest.raises(InputError, match=r"has no subject 77.*It has 01, 02\."):
        get(session, archive, out.with_name("x"), subjects=["01", "77"])


class TestVersions:
    def test_the_newest_unless_named(self, archive: OpenNeuro, session: Session, out: Path) -> None:
        assert get(session, archive, out).plan.title == "ds002330 1.1.0"
        assert get(session, archive, out, version="1.1.0").plan.missing_files == 0

    def test_unknown(self, archive: OpenNeuro, session: Session, out: Path) -> None:
        with pytest.raises(InputError, match=r"no version 9\. It has 1\.0\.0, 1\.1\.0\."):
            get(session, archive, out, version="9")

    def test_another_than_the_folder_holds(
        self, archive: OpenNeuro, session: Session, out: Path
    ) -> None:
        out.mkdir()
        record = {"source": "openneuro", "dataset": "ds002330", "version": "1.0.0"}
        (out / ".mrbridge-download.json").write_text(json.dumps(record))
        with pytest.raises(OutputError, match=r"holds openneuro ds002330 1\.0\.0"):
            get(session, archive, out, version="1.1.0")
        with pytest.raises(OutputError, match="holds openneuro ds002330"):
            download_openneuro(session, "ds000001", out, site=archive.server.url)

    @pytest.mark.parametrize("name", ["ds1", "ds002330; drop", "../ds002330", "DS002330", ""])
    def test_names_that_are_none(
        self, archive: OpenNeuro, session: Session, out: Path, name: str
    ) -> None:
        with pytest.raises(InputError, match="is not a data set of OpenNeuro"):
            download_openneuro(session, name, out, site=archive.server.url)
        assert archive.server.requests == []

    def test_absent(self, archive: OpenNeuro, session: Session, out: Path) -> None:
        with pytest.raises(InputError, match="OpenNeuro says: Dataset not found"):
            download_openneuro(session, "ds999999", out, site=archive.server.url)


def test_a_dry_run_writes_nothing(archive: OpenNeuro, session: Session, out: Path) -> None:
    report = get(session, archive, out, dry_run=True)
    assert not out.exists()
    assert re.match(r"ds002330 1\.1\.0: 12 files, \d+\.\d kB\. Licence: CC0\.", report.in_words())
    assert not any("/s3/" in path for _, path, _ in archive.server.requests)


def test_a_damaged_scan_fails_alone(archive: OpenNeuro, session: Session, out: Path) -> None:
    bad = "sub-01/anat/sub-01_acq-fast_T2w.nii.gz"
    archive.file(bad).content = scan(99)  # whole by itself, but not what the archive lists
    archive.file(bad).headers["ETag"] = None
    report = get(session, archive, out)
    assert list(report.failed) == [bad]
    assert "has the MD5" in report.failed[bad]
    assert held(out) == {k: v for k, v in WANTED.items() if k != bad}
    archive.file(bad).content = WANTED[bad]
    assert get(session, archive, out).failed == {}
    assert held(out) == WANTED


def test_everything_that_can_go_wrong_on_the_way(
    archive: OpenNeuro, session: Session, out: Path
) -> None:
    archive.passing = [
        "502: Bad Gateway",
        "fetch failed",
        "The operation was aborted due to timeout",
    ]
    names = [name for name in WANTED if name.endswith(".nii.gz")]
    archive.file(names[0]).faults = [("drop", 500), 503, ("drop", 100)]
    archive.file(names[1]).faults = [429, 500, ("drop", 0)]
    archive.file(names[2]).faults = [("change", WANTED[names[2]])]
    archive.file("README").faults = [("drop", 2)]
    assert get(session, archive, out).failed == {}
    assert held(out) == WANTED


def test_a_busy_list_is_given_up_at_last(archive: OpenNeuro, session: Session, out: Path) -> None:
    archive.passing = ["504 Gateway Timeout"] * 99
    with pytest.raises(InputError, match=r"504 Gateway Timeout.*goes on where it stopped"):
        get(session, archive, out)


@pytest.mark.parametrize(
    "told",
    [
        b"<html>",
        [],
        {},
        {"data": None},
        {"data": {"dataset": None}},
        {"data": {"dataset": {"snapshots": "x"}}},
        {"errors": "x"},
        {"errors": ["x"]},
        (400, {"errors": [{"message": "Cannot query field"}]}),
        (400, b""),
    ],
)
def test_answers_of_another_form(server: Server, session: Session, out: Path, told: Any) -> None:
    server.graphql = lambda question: told
    with pytest.raises(InputError):
        download_openneuro(session, "ds002330", out, site=server.url)
    assert not out.exists()


@pytest.mark.parametrize("name", ["..", "a/b", "", "../../x", "a\\b", "/etc"])
def test_names_that_lead_out_of_the_folder(
    archive: OpenNeuro, session: Session, out: Path, name: str
) -> None:
    archive.changes["sub-01/anat/sub-01_T1w.nii.gz"] = {"filename": name}
    with pytest.raises(InputError, match="the archive lists a file with the name"):
        get(session, archive, out)
    assert not out.exists()


@pytest.mark.parametrize("urls", [None, [], [None], ["ftp://x.org/a"], ["file:///etc/passwd"]])
def test_files_without_a_usable_address(
    archive: OpenNeuro, session: Session, out: Path, urls: Any
) -> None:
    archive.changes["sub-01/anat/sub-01_T1w.nii.gz"] = {"urls": urls}
    with pytest.raises(InputError, match=r"tells no address of sub-01/anat/sub-01_T1w\.nii\.gz"):
        get(session, archive, out)


def test_sizes_may_be_words_or_missing(archive: OpenNeuro, session: Session, out: Path) -> None:
    archive.changes["README"] = {"size": "5"}  # BigInt
    archive.changes["CHANGES"] = {"size": None}
    assert get(session, archive, out).failed == {}


def test_ctrl_c(
    archive: OpenNeuro, session: Session, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mrbridge.download import folder

    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(folder, "as_completed", interrupt)
        with pytest.raises(Interrupted, match="goes on from here"):
            get(session, archive, out)
    assert session.stop.is_set()
    with Session() as again:
        get(again, archive, out)
    assert held(out) == WANTED


def test_a_full_disk_ends_it_all(
    archive: OpenNeuro, session: Session, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mrbridge.download import openneuro

    def full(*_: Any) -> None:
        raise OutputError("cannot be written (No space left on device)", path=out)

    monkeypatch.setattr(openneuro, "fetch", full)
    with pytest.raises(OutputError, match="No space left"):
        get(session, archive, out)
