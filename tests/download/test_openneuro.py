"""One snapshot of OpenNeuro: only what was requested, verified by the listed checksums."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.download.conftest import QUICK
from tests.download.server import Served, Server, scan

from mrbridge.download import fetch, folder
from mrbridge.download.folder import RECORD, Report
from mrbridge.download.openneuro import TERMS, download
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
    """Answers GraphQL requests in the form of docs.openneuro.org/api.html, and serves the files.

    Attributes:
        about: the description of the dataset.
        busy: errors that come before the next answers.
        listed: the folders that were listed.
        changes: fields of entries by path that replace the correct ones.
    """

    def __init__(self, server: Server, content: dict[str, bytes]) -> None:
        self.server, self.content = server, dict(content)
        self.about: dict[str, Any] = dict(ABOUT)
        self.busy: list[str] = []
        self.listed: list[str] = []
        self.changes: dict[str, dict[str, Any]] = {}
        server.graphql = self.answer
        for path, data in content.items():
            server.files[f"/s3/ds002330/{path}"] = Served(data)

    def file(self, path: str) -> Served:
        return self.server.files[f"/s3/ds002330/{path}"]

    def answer(self, question: dict[str, Any]) -> Any:
        if self.busy:
            return {"errors": [{"message": self.busy.pop(0)}], "data": None}
        variables = question["variables"]
        if "latestSnapshot" in question["query"]:
            if variables["dataset"] != "ds002330":
                return {"errors": [{"message": "Dataset not found."}], "data": {"dataset": None}}
            tags = [{"tag": "1.0.0"}, {"tag": "1.1.0"}]
            known = {"id": "ds002330", "snapshots": tags, "latestSnapshot": {"tag": "1.1.0"}}
            return {"data": {"dataset": known}}
        assert (variables["dataset"], variables["tag"]) == ("ds002330", "1.1.0")
        tree = variables.get("tree")
        parent = bytes.fromhex(tree).decode() if tree else ""
        self.listed.append(parent)
        snapshot = {"id": "ds002330:1.1.0", "tag": "1.1.0", "files": self.entries(parent)}
        return {"data": {"snapshot": snapshot | ({} if tree else {"description": self.about})}}

    def entries(self, parent: str) -> list[dict[str, Any]]:
        below = [path.removeprefix(parent) for path in self.content if path.startswith(parent)]
        entries = []
        for name in dict.fromkeys(path.split("/")[0] for path in below):
            entry: dict[str, Any] = {"filename": name, "urls": [], "annexed": False, "size": 0}
            if f"{parent}{name}" in self.content:
                data = self.content[f"{parent}{name}"]
                url = f"{self.server.url}/s3/ds002330/{parent}{name}?versionId=x"
                entry |= {"size": len(data), "urls": [url], "directory": False}
                entry["id"] = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
                if name.endswith(".nii.gz"):
                    md5 = hashlib.md5(data).hexdigest()
                    entry |= {"id": f"MD5E-s{len(data)}--{md5}.nii.gz", "annexed": True}
                entry |= self.changes.get(f"{parent}{name}", {})
            else:
                entry |= {"id": f"{parent}{name}/".encode().hex(), "directory": True}
            entries.append(entry)
        return entries


SCAN = "sub-01/anat/sub-01_T1w.nii.gz"


@pytest.fixture
def archive(server: Server) -> OpenNeuro:
    return OpenNeuro(server, WANTED | UNWANTED)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "ds"


def get(archive: OpenNeuro, out: Path, **options: Any) -> Report:
    version = options.pop("version", None)
    settings = QUICK.changed({"mirror": archive.server.url} | options)
    return download("ds002330", out, settings, version=version)


def downloaded(out: Path) -> dict[str, bytes]:
    """The files of the archive, without those that mrbridge adds."""
    added = {"LICENSE", "CITATION.cff", RECORD}
    files = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    return {name: data for name, data in files.items() if name not in added}


def test_the_requested_scans_and_their_metadata(archive: OpenNeuro, out: Path) -> None:
    report = get(archive, out)
    assert downloaded(out) == WANTED
    assert (report.scans, report.failed) == (4, {})
    assert report.plan.files == len(WANTED)
    assert report.plan.bytes == sum(map(len, WANTED.values()))
    assert is_bids(out)
    found = {(s.subject, s.session, s.contrast) for s in find_scans(out).scans}
    assert found == {
        *(("01", None, "T1w"), ("01", None, "T2w")),
        *(("02", "a", "T1w"), ("02", "a", "T2w")),
    }
    assert sorted(archive.listed) == [
        *("", "sub-01/", "sub-01/anat/", "sub-02/", "sub-02/ses-a/"),
        *("sub-02/ses-a/anat/", "sub-02/ses-b/"),
    ]


def test_licence_and_citation(archive: OpenNeuro, out: Path) -> None:
    report = get(archive, out)
    assert report.plan.licence == "CC0"
    licence = (out / "LICENSE").read_text()
    for text in ("CC0", TERMS, "Cite the paper."):
        assert text in licence
    citation = yaml.safe_load((out / "CITATION.cff").read_text())
    assert citation["doi"] == "10.18112/openneuro.ds002330.v1.1.0"
    assert [author["name"] for author in citation["authors"]] == ABOUT["Authors"]
    assert citation["version"] == "1.1.0"
    assert citation["license"] == "CC0-1.0"


def test_its_own_licence_and_citation_stay(server: Server, out: Path) -> None:
    own = {"LICENSE": b"PDDL", "CITATION.cff": b"cff-version: 1.2.0\n"}
    get(OpenNeuro(server, WANTED | own), out)
    assert {name: (out / name).read_bytes() for name in own} == own


@pytest.mark.parametrize("value", [None, "", [], {}, 5, "one", ["a", None, 5], [[]]])
def test_any_description(archive: OpenNeuro, out: Path, value: Any) -> None:
    archive.about = dict.fromkeys(ABOUT, value)
    assert get(archive, out, subjects=["01"]).failed == {}
    assert yaml.safe_load((out / "CITATION.cff").read_text())["authors"]


class TestSecondRun:
    @pytest.fixture
    def done(self, archive: OpenNeuro, out: Path) -> Path:
        get(archive, out)
        archive.server.requests.clear()
        return out

    def test_downloads_nothing(self, done: Path, archive: OpenNeuro) -> None:
        report = get(archive, done)
        assert (report.plan.missing_files, report.plan.missing_bytes) == (0, 0)
        assert [request for request in archive.server.requests if request[0] == "GET"] == []

    def test_keeps_edited_tables_and_restores_damaged_scans(
        self, done: Path, archive: OpenNeuro
    ) -> None:
        table = done / "participants.tsv"
        (done / SCAN).write_bytes(bytes(len(WANTED[SCAN])))
        table.write_text("participant_id\tsplit\nsub-01\ttest\n")
        assert get(archive, done, dry_run=True).scans == 3
        assert get(archive, done).scans == 4
        assert (done / SCAN).read_bytes() == WANTED[SCAN]
        assert "split" in table.read_text()

    def test_overwrites_scans_but_not_tables_if_asked_to(
        self, done: Path, archive: OpenNeuro
    ) -> None:
        table = done / "participants.tsv"
        table.write_text("participant_id\tsplit\nsub-01\ttest\n")
        report = get(archive, done, overwrite=True)
        assert report.plan.missing_files == 4
        assert "split" in table.read_text()

    @pytest.mark.parametrize("record", ["null", "[]", "5", '{"source": "openneuro", "dataset": 5}'])
    def test_refuses_an_edited_record(self, done: Path, archive: OpenNeuro, record: str) -> None:
        (done / RECORD).write_text(record)
        with pytest.raises(OutputError, match="is damaged or was edited"):
            get(archive, done)


def test_contrasts_and_subjects(archive: OpenNeuro, out: Path) -> None:
    report = get(archive, out, contrast=["FLAIR"], subjects=["sub-01"])
    scans = [name for name in downloaded(out) if name.endswith(".gz")]
    assert scans == ["sub-01/anat/sub-01_FLAIR.nii.gz"]
    assert report.scans == 1
    with pytest.raises(InputError, match=r"has no scans of FLAIR.*other --subjects"):
        get(archive, out.with_name("x"), contrast=["FLAIR"], subjects=["02"])
    with pytest.raises(InputError, match=r"has no subject 77.*It has 01, 02\."):
        get(archive, out.with_name("x"), subjects=["01", "77"])


class TestVersions:
    def test_the_newest_by_default(self, archive: OpenNeuro, out: Path) -> None:
        assert get(archive, out).plan.title == "ds002330 1.1.0"
        assert get(archive, out, version="1.1.0").plan.missing_files == 0

    def test_unknown(self, archive: OpenNeuro, out: Path) -> None:
        with pytest.raises(InputError, match=r"no version 9\. It has 1\.0\.0, 1\.1\.0\."):
            get(archive, out, version="9")

    def test_another_one_than_in_the_folder(self, archive: OpenNeuro, out: Path) -> None:
        out.mkdir()
        record = {"source": "openneuro", "dataset": "ds002330", "version": "1.0.0"}
        (out / RECORD).write_text(json.dumps(record))
        with pytest.raises(OutputError, match=r"contains openneuro ds002330 1\.0\.0"):
            get(archive, out, version="1.1.0")
        with pytest.raises(OutputError, match="contains openneuro ds002330"):
            download("ds000001", out, QUICK.changed({"mirror": archive.server.url}))

    @pytest.mark.parametrize("name", ["ds1", "ds002330; x", "../ds002330", "DS002330", ""])
    def test_impossible_names(self, archive: OpenNeuro, out: Path, name: str) -> None:
        with pytest.raises(InputError, match="is not a dataset of OpenNeuro"):
            download(name, out, QUICK.changed({"mirror": archive.server.url}))
        assert archive.server.requests == []

    def test_absent(self, archive: OpenNeuro, out: Path) -> None:
        with pytest.raises(InputError, match="OpenNeuro answers: Dataset not found"):
            download("ds999999", out, QUICK.changed({"mirror": archive.server.url}))


def test_a_dry_run_writes_nothing(archive: OpenNeuro, out: Path) -> None:
    report = get(archive, out, dry_run=True)
    assert not out.exists()
    assert re.match(r"ds002330 1\.1\.0: 12 files, \d+\.\d kB\. Licence: CC0\.", str(report))
    assert not any("/s3/" in path for _, path, _ in archive.server.requests)
    assert report.scans == 0


def test_a_damaged_scan_does_not_stop_the_others(archive: OpenNeuro, out: Path) -> None:
    bad = "sub-01/anat/sub-01_acq-fast_T2w.nii.gz"
    archive.file(bad).content = scan(2)[:-1] + b"\1"
    report = get(archive, out)
    assert list(report.failed) == [bad]
    assert "its MD5 is" in report.failed[bad]
    assert downloaded(out) == {k: v for k, v in WANTED.items() if k != bad}
    archive.file(bad).content = WANTED[bad]
    assert get(archive, out).failed == {}
    assert downloaded(out) == WANTED


def test_faults_of_the_network(archive: OpenNeuro, out: Path) -> None:
    archive.busy = ["502: Bad Gateway", "fetch failed", "The operation was aborted due to timeout"]
    names = [name for name in WANTED if name.endswith(".nii.gz")]
    archive.file(names[0]).faults = [("drop", 500), 503, ("drop", 100)]
    archive.file(names[1]).faults = [429, 500, ("drop", 0)]
    archive.file(names[2]).faults = [("change", WANTED[names[2]])]
    archive.file("README").faults = [("drop", 2)]
    assert get(archive, out).failed == {}
    assert downloaded(out) == WANTED


def test_a_server_that_stays_busy(archive: OpenNeuro, out: Path) -> None:
    archive.busy = ["504 Gateway Timeout"] * 99
    with pytest.raises(InputError, match=r"504 Gateway Timeout.*resumes where it stopped"):
        get(archive, out)


@pytest.mark.parametrize(
    "answer",
    [
        *(b"<html>", b"", b"\xff", b"[" * 100_000, [], {}, 5, None),
        *({"data": None}, {"data": {"dataset": None}}),
        {"data": {"dataset": {"snapshots": "x"}}},
        {"errors": "x"},
        {"errors": ["x"]},
        (400, {"errors": [{"message": "Cannot query field"}]}),
        (400, b""),
    ],
)
def test_unknown_answers(server: Server, out: Path, answer: Any) -> None:
    server.graphql = lambda question: answer
    with pytest.raises(InputError):
        download("ds002330", out, QUICK.changed({"mirror": server.url}))
    assert not out.exists()


def test_an_answer_that_is_too_long(
    server: Server, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "MAX_TEXT", 1_000_000)
    server.graphql = lambda question: b'"' + b"x" * 2_000_000 + b'"'
    with pytest.raises(InputError, match="sends more than 1000000 bytes"):
        download("ds002330", out, QUICK.changed({"mirror": server.url}))


@pytest.mark.parametrize(
    "name",
    ["..", "a/b", "", "../../x", "a\\b", "/etc", "sub-01\0_T1w.nii.gz", f"sub-{'1' * 300}_T1w.nii"],
)
def test_names_that_point_out_of_the_folder(archive: OpenNeuro, out: Path, name: str) -> None:
    archive.changes[SCAN] = {"filename": name}
    with pytest.raises(InputError, match="the archive lists a file with the name"):
        get(archive, out)
    assert not out.exists()


@pytest.mark.parametrize("urls", [None, [], [None], ["ftp://x.org/a"], ["file:///etc/passwd"]])
def test_files_without_a_usable_address(archive: OpenNeuro, out: Path, urls: Any) -> None:
    archive.changes[SCAN] = {"urls": urls}
    with pytest.raises(InputError, match=r"lists no address of sub-01/anat/sub-01_T1w\.nii\.gz"):
        get(archive, out)


def test_unusual_sizes(archive: OpenNeuro, out: Path) -> None:
    archive.changes["README"] = {"size": "5"}  # BigInt
    archive.changes["CHANGES"] = {"size": None}
    archive.changes["participants.tsv"] = {"size": 7}  # texts are not always listed correctly
    assert get(archive, out).failed == {}
    sizes: list[Any] = [-1, 1e30, [], "x", 1.5]
    for size in sizes:
        archive.changes["README"] = {"size": size}
        with pytest.raises((InputError, OutputError)):
            get(archive, out.with_name("x"))


def test_ctrl_c(archive: OpenNeuro, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetch, "as_completed", interrupt)
        with pytest.raises(Interrupted, match="resumes from here"):
            get(archive, out)
    get(archive, out)
    assert downloaded(out) == WANTED


def test_a_full_disk_ends_everything(
    archive: OpenNeuro, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", str(out))

    monkeypatch.setattr(folder, "fetch", full)
    with pytest.raises(OutputError, match="No space left"):
        get(archive, out)
