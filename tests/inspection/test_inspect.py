"""The page, the table and the command line."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from tests.inspection.conftest import head

from mrbridge import cli, io
from mrbridge.dataset.store import Store
from mrbridge.errors import InputError, OutputError
from mrbridge.inspection.facts import Facts
from mrbridge.inspection.findings import Finding, Group
from mrbridge.inspection.inspect import Inspection, inspect
from mrbridge.inspection.report import write_report
from mrbridge.io.atomic import sha256_of
from mrbridge.io.bids import find_scans
from mrbridge.viewer import is_built
from mrbridge.volume import Volume

_VOID = {"meta", "img", "br", "line", "polyline", "polygon"}


class Page(HTMLParser):
    """What a browser would see: elements that are closed, pictures, words."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, key, value or "") for key, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def messy(clean_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, a copy under another contrast, a broken file, and a name that is markup."""
    folder = tmp_path_factory.mktemp("inspection") / "messy"
    shutil.copytree(clean_folder, folder)
    shutil.copy(folder / "sub-01_T1w.nii.gz", folder / "sub-08_T1w.nii.gz")
    shutil.copy(folder / "sub-02_T1w.nii.gz", folder / "sub-09_T2w.nii.gz")
    (folder / "sub-10_T2w.nii.gz").write_bytes(b"broken")
    io.write(head(12, "T1w"), folder / "<b>&T1.nii.gz")
    (folder / "notes.txt").write_text("hello")
    return folder


@dataclass(frozen=True)
class Inspected:
    """The messy folder's result and page, and whether the folder is as it was."""

    result: Inspection
    page: Path
    is_unchanged: bool


@pytest.fixture(scope="module")
def inspected(messy: Path, tmp_path_factory: pytest.TempPathFactory) -> Inspected:
    before = hashes(messy)
    page = tmp_path_factory.mktemp("page") / "report.html"
    result = inspect(messy, page)
    return Inspected(result, page, hashes(messy) == before)


@pytest.fixture(scope="module")
def clean(clean_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    """The clean folder's result, with its page."""
    return inspect(str(clean_folder), str(tmp_path_factory.mktemp("page") / "report.html"))


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in folder.iterdir()}


def test_the_page_is_self_contained(inspected: Inspected) -> None:
    page = Page(inspected.page)
    assert inspected.is_unchanged
    loaded = [value for _, key, value in page.attributes if key in ("src", "href", "srcset")]
    assert loaded
    assert all(value.startswith("data:image/webp;base64,") for value in loaded)
    html = inspected.page.read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|https?://", html)
    assert html.count("<script") == (1 if is_built() else 0), "only the one that opens the viewer"
    described = [value for tag, key, value in page.attributes if (tag, key) == ("img", "alt")]
    assert len(described) == len(loaded)
    assert all(described)


def test_file_names_are_escaped(inspected: Inspected) -> None:
    assert "<b>" not in inspected.page.read_text(encoding="utf-8")
    assert "<b>&T1.nii.gz" in Page(inspected.page).words


def test_the_page_lists_the_findings(inspected: Inspected) -> None:
    words = Page(inspected.page).words
    assert "Not fit for training as it is" in words
    assert "The same voxels appear under several contrasts" in words
    for text in ("Exact duplicates", "Unreadable scans", "sub-10_T2w.nii.gz", "80", "1 × 1"):
        assert text in words


def test_a_clean_page(clean: Inspection) -> None:
    # These heads have no anatomy, which does not matter for training.
    assert {finding.kind for finding in clean.findings} <= {"refused scans", "unusual scans"}
    text = str(clean)
    assert text.startswith(
        "No problems found. 12 scans of 6 subjects (6 T1w, 6 T2w). 6 of 6 subjects have both "
        "T1w and T2w, on one grid: synthetic images can be scored on them."
    )
    assert re.search(r"\nTime: \d+ s", text)
    assert clean.report is not None
    assert "No problems found" in Page(clean.report).words


def test_the_output_does_not_depend_on_the_number_of_workers(
    messy: Path, inspected: Inspected, tmp_path: Path
) -> None:
    inspect(messy, tmp_path / "report.html", workers=2)
    for suffix in (".html", ".findings.json"):
        pages = (inspected.page, tmp_path / "report.html")
        one, two = (page.with_suffix(suffix).read_bytes() for page in pages)
        assert one == two


def test_the_complete_list_is_written_next_to_the_page(inspected: Inspected) -> None:
    result = inspected.result.as_json()
    written = inspected.page.with_suffix(".findings.json")
    complete = json.loads(written.read_text())
    assert result["complete"] == str(written)
    for key in ("findings", "failed", "ignored", "contrasts", "headline", "verdict"):
        assert complete[key] == result[key]
    assert complete["of"] == "messy"
    scans = {one["scan"]: one for one in complete["scans"]}
    assert len(scans) == len(complete["scans"]) == 15
    assert scans["sub-01_T1w.nii.gz"]["shape"] == [24, 96, 80]
    assert scans["sub-01_T1w.nii.gz"]["spacing_mm"] == [2, 1, 1]
    assert scans["sub-08_T1w.nii.gz"]["sha256"] == scans["sub-01_T1w.nii.gz"]["sha256"]
    assert "report.findings.json" in Page(inspected.page).words


def many_findings(found: Inspection, count: int) -> Inspection:
    """An inspection of as many subjects, in which all scans are in a finding, and pairs."""

    def another(number: int) -> Facts:
        kept = found.facts[number % len(found.facts)]
        scan = replace(kept.entry.scan, subject=f"{number:05}")
        return replace(kept, entry=replace(kept.entry, name=f"scan-{number:05}", scan=scan))

    facts = [another(number) for number in range(count)]
    names = [one.name for one in facts]
    findings = [
        Finding(
            "noise and motion", "warning", "Noise.", "Look.", tuple(Group((n,)) for n in names)
        ),
        Finding(
            "undeclared pairs",
            "note",
            "Pairs.",
            "Look.",
            tuple(Group(pair) for pair in zip(names[::2], names[1::2], strict=True)),
        ),
        Finding("exact duplicates", "fault", "All.", "Look.", (Group(tuple(names)),)),
    ]
    return replace(found, facts=facts, findings=findings)


def test_the_length_of_the_page_is_bounded(clean: Inspection, tmp_path: Path) -> None:
    sizes = []
    for count in (500, 2_000):
        found = many_findings(clean, count)
        write_report(found, tmp_path / "page.html")
        sizes.append((tmp_path / "page.html").stat().st_size)
        words = Page(tmp_path / "page.html").words
        assert f"{count} scans, 4 shown" in words
        assert f"The first 200 of {count - 12}; page.findings.json" in words
        assert f"The first 40 of {count};" in words
        complete = (tmp_path / "page.findings.json").read_text()
        assert complete.count(f'"scan-{count - 1:05}"') == 4  # three findings and the scan itself
    assert sizes[1] < 1.05 * sizes[0] < 2_000_000  # the viewer takes a megabyte


def test_the_table_leaves_out_copies_and_unreadable_scans(messy: Path, tmp_path: Path) -> None:
    before = hashes(messy)
    table = tmp_path / "tables" / "fixed.csv"
    result = inspect(messy, fix=table).as_json()
    assert hashes(messy) == before
    left = {entry["scan"]: entry["reason"] for entry in result["left_out"]}
    assert left.pop("sub-10_T2w.nii.gz")
    assert left == {
        "sub-08_T1w.nii.gz": "is a copy of sub-01_T1w.nii.gz",
        "sub-02_T1w.nii.gz": "has a copy under another contrast",
        "sub-09_T2w.nii.gz": "has a copy under another contrast",
    }
    # Preparation takes it, and reads the same scans as from the folder.
    found = {s.path.resolve(): (s.subject, s.contrast) for s in find_scans(table).scans}
    folder = {s.path.resolve(): (s.subject, s.contrast) for s in find_scans(messy).scans}
    gone = {messy / entry["scan"] for entry in result["left_out"]}
    assert found == {path: known for path, known in folder.items() if path not in gone}
    kinds = [f.kind for f in inspect(table, images=True).findings]
    assert [kind for kind in kinds if kind != "unusual scans"] == ["unequal counts"]


def test_the_held_out_copy_is_kept(clean_folder: Path, tmp_path: Path) -> None:
    for name in ("scan.nii.gz", "copy.nii.gz"):
        shutil.copy(clean_folder / "sub-01_T1w.nii.gz", tmp_path / name)
    with open(tmp_path / "in.csv", "w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["subject", "contrast", "path", "split"])
        rows.writerow(["1", "T1w", "scan.nii.gz", "train"])
        rows.writerow(["2", "T1w", "scan.nii.gz", "test"])
    with open(tmp_path / "in.csv", "a", newline="") as stream:
        csv.writer(stream).writerow(["3", "T1w", "copy.nii.gz", "val"])
    found = inspect(tmp_path / "in.csv", images=True)
    assert found.findings[0].severity == "fault"
    inspect(tmp_path / "in.csv", fix=tmp_path / "out.csv")
    (kept,) = find_scans(tmp_path / "out.csv").scans
    assert (kept.subject, kept.split) == ("2", "test")


def test_a_store(small_store: Store, tmp_path: Path) -> None:
    result = inspect(small_store.path, tmp_path / "report.html").as_json()
    assert result["form"] == "store"
    assert result["contrasts"] == {"T1w": 4, "T2w": 4}
    assert not [finding for finding in result["findings"] if finding["severity"] == "fault"]
    words = Page(tmp_path / "report.html").words
    assert "train" in words
    assert "val" in words
    with pytest.raises(InputError, match="is a store"):
        inspect(small_store.path, fix=tmp_path / "fixed.csv")


def test_2d_images(tmp_path: Path) -> None:
    for contrast in ("T1w", "T2w"):
        voxels = head(1, contrast).voxels[:, :, 8:12] // 5
        for number in range(4):
            picture = Volume(voxels[:, :, number, None].astype(np.uint8), None)
            io.write(picture, tmp_path / "in" / contrast[:2] / f"{number}.png")
    result = inspect(tmp_path / "in", tmp_path / "report.html").as_json()
    assert result["headline"] == (
        "Fit for training, but not as unpaired data: most scans form undeclared pairs"
    )
    pairs = next(f for f in result["findings"] if f["kind"] == "undeclared pairs")
    assert [g["scans"] for g in pairs["groups"]] == [
        [f"T1/{n}.png", f"T2/{n}.png"] for n in range(4)
    ]


def test_the_command_line(
    clean_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.html"
    with pytest.raises(SystemExit) as ended:
        cli.main(["inspect", str(clean_folder), "-o", str(out), "--workers", "2", "--dask", "tcp:"])
    assert ended.value.code == 2
    assert "--workers and --dask exclude each other" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        cli.main(["inspect", str(clean_folder), "-o", str(out), "--json"])
    assert ended.value.code == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["report"] == str(out)
    assert result["contrasts"] == {"T1w": 6, "T2w": 6}
    with pytest.raises(SystemExit):
        cli.main(["inspect", str(clean_folder)])
    listing = capsys.readouterr().out
    assert "12 of 12 files can be used as they are: 6 T1w, 6 T2w" in listing


def test_refusals(clean_folder: Path, tmp_path: Path) -> None:
    scan = clean_folder / "sub-01_T1w.nii.gz"
    before = sha256_of(scan)
    with pytest.raises(OutputError, match="not the name of a page"):
        inspect(clean_folder, scan)
    with pytest.raises(OutputError, match="not the name of a table"):
        inspect(clean_folder, fix=scan)
    (tmp_path / "mine.csv").write_text("subject")
    with pytest.raises(OutputError, match="exists"):
        inspect(clean_folder, fix=tmp_path / "mine.csv")
    with pytest.raises(InputError, match="single file"):
        inspect(scan, tmp_path / "r.html")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no scan"):
        inspect(tmp_path / "empty", tmp_path / "r.html")
    assert sha256_of(scan) == before
    assert not (tmp_path / "r.html").exists()


def test_results_in_a_notebook_are_escaped(messy: Path, inspected: Inspected) -> None:
    for result in (inspect(messy), inspected.result):
        html = result._repr_html_()
        assert "<b>" not in html
    assert "Not fit for training as it is" in html
