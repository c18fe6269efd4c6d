"""The verbs on URLs: the same files, byte for byte, as on paths; nothing tells of local copies."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tests.studies import write_series

from mrbridge import io
from mrbridge.bundle import Bundle, read_manifest
from mrbridge.dataset.prepare import prepare
from mrbridge.dataset.settings import PrepareSettings
from mrbridge.dataset.store import Store
from mrbridge.errors import SomeScansFailed
from mrbridge.evaluation.evaluate import EvaluateSettings, evaluate, score
from mrbridge.inference.translate import translate
from mrbridge.io.remote import localise
from mrbridge.training.run import train
from mrbridge.training.settings import TrainSettings

OF_TIME = re.compile(rb'"date": "[^"]*"|[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:+]*')


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


@pytest.fixture
def cloud(memory: Any, bids_scans: Path) -> str:
    """The BIDS dataset at a URL."""
    memory.put(f"{bids_scans}/", "/cloud/bids", recursive=True)
    return "memory://cloud/bids"


@pytest.fixture
def run(run: Callable[..., Any]) -> Callable[..., Any]:
    """The command line, which never names the local copies."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        code, out, err = run(*arguments)
        assert ".places" not in out + err
        return code, out, err

    return call


def local(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def at(system: Any, folder: str) -> dict[str, bytes]:
    """What lies at a URL; nothing of it tells where it was made."""
    found = {key[len(folder) + 1 :]: system.cat(key) for key in system.find(folder)}
    assert not [name for name, content in found.items() if b".places" in content]
    return found


def without_links(files: dict[str, bytes]) -> dict[str, bytes]:
    """Without the file that says where the source dataset lies."""
    return {name: content for name, content in files.items() if "dataset_desc" not in name}


@pytest.mark.parametrize(
    "changes", [{}, {"standard": {"intensity": {"method": "nyul"}}}], ids=["plain", "nyul"]
)
def test_a_store_has_the_bytes_of_a_local_one_and_is_not_made_twice(
    memory: Any, cloud: str, bids_scans: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    settings = PrepareSettings().changed(changes)
    prepare(bids_scans, tmp_path / "store", settings)
    store = prepare(cloud, "memory://cloud/store", settings)
    assert at(memory, "/cloud/store") == local(tmp_path / "store")
    made = {key: memory.info(key)["created"] for key in memory.find("/cloud/store/scans")}
    slices = {record.id: store.slices(record) for record in store.records()}
    again = prepare(cloud, "memory://cloud/store", settings)
    assert {key: memory.info(key)["created"] for key in made} == made or changes
    assert at(memory, "/cloud/store") == local(tmp_path / "store")
    assert all((again.slices(r) == slices[r.id]).all() for r in again.records())


def test_a_damaged_array_is_made_again_and_one_of_a_scan_that_is_gone_is_removed(
    memory: Any, cloud: str
) -> None:
    prepare(cloud, "memory://cloud/store")
    whole = at(memory, "/cloud/store")
    memory.pipe("/cloud/store/scans/sub-01_T1w.zarr/c/0/0/0", b"damaged")
    prepare(cloud, "memory://cloud/store")
    assert at(memory, "/cloud/store") == whole
    memory.rm("/cloud/bids/sub-04", recursive=True)
    prepare(cloud, "memory://cloud/store")
    assert not [name for name in at(memory, "/cloud/store") if "sub-04" in name]


@pytest.mark.usefixtures("quick_phantom")
def test_training_on_a_store_is_that_on_the_local_one(
    memory: Any, small_store: Store, tiny: Callable[..., TrainSettings], tmp_path: Path
) -> None:
    memory.put(f"{small_store.path}/", "/cloud/store", recursive=True)
    settings = tiny(epochs=1)
    runs = [
        train(place, tmp_path / name, settings, device="cpu", start="scratch")
        for place, name in ((small_store.path, "here"), ("memory://cloud/store", "there"))
    ]
    kept = [
        {key: value for key, value in run.rows[-1].items() if "second" not in key} for run in runs
    ]
    assert kept[0] == kept[1]
    assert read_manifest(runs[0].path).weights_sha256 == read_manifest(runs[1].path).weights_sha256


def test_a_data_set_is_translated_as_the_local_one_and_not_twice(
    memory: Any, cloud: str, bids_scans: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    translate(bids_scans, tmp_path / "out", model=tiny_bundle)
    out = "memory://cloud/bids/derivatives/mrbridge"
    done = translate(cloud, out, model=tiny_bundle)
    assert not any(item.skipped for item in done)
    made = at(memory, "/cloud/bids/derivatives/mrbridge")
    assert without_links(made) == without_links(local(tmp_path / "out"))
    description = json.loads(made["dataset_description.json"])
    assert description["DatasetLinks"] == {"raw": "../.."}
    assert all(item.skipped for item in translate(cloud, out, model=tiny_bundle))
    again = at(memory, "/cloud/bids/derivatives/mrbridge")
    assert {n: b for n, b in again.items() if n != "report.json"} == {
        n: b for n, b in made.items() if n != "report.json"
    }


def test_derivatives_say_from_which_url_they_come(
    memory: Any, cloud: str, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    for out, where in ((tmp_path / "out", tmp_path / "out"), ("memory://other/out", None)):
        translate(cloud, out, model=tiny_bundle, participants=["01"])
        written = local(where) if where else at(memory, "/other/out")
        description = json.loads(written["dataset_description.json"])
        assert description["SourceDatasets"] == [{"URL": cloud}]
    named = "memory://cloud/DOE_JOHN"
    memory.copy("/cloud/bids", "/cloud/DOE_JOHN", recursive=True)
    translate(named, tmp_path / "named", model=tiny_bundle, participants=["01"])
    assert "DOE" not in (tmp_path / "named" / "dataset_description.json").read_text()


def test_a_folder_with_a_damaged_scan(
    memory: Any, bids_scans: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for path in bids_scans.rglob("*_T1w.nii.gz"):
        shutil.copy(path, folder / path.name)
    (folder / "sub-02_T1w.nii.gz").write_bytes(b"damaged")
    memory.put(f"{folder}/", "/cloud/in", recursive=True)
    for source, out in ((folder, tmp_path / "out"), ("memory://cloud/in", "memory://cloud/out")):
        with pytest.raises(SomeScansFailed, match="1 of 4 scans failed") as caught:
            translate(source, out, model=tiny_bundle)
    assert str(caught.value).startswith("memory://cloud/out/report.json: ")
    assert at(memory, "/cloud/out") == local(tmp_path / "out")


def test_pictures(memory: Any, picture_folder: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    memory.put(f"{picture_folder}/TrainT1/", "/cloud/TrainT1", recursive=True)
    translate(picture_folder / "TrainT1", tmp_path / "out", model=tiny_bundle)
    translate("memory://cloud/TrainT1", "memory://cloud/out", model=tiny_bundle)
    assert at(memory, "/cloud/out") == local(tmp_path / "out")


def test_dicom(memory: Any, tiny_bundle: Bundle, tmp_path: Path) -> None:
    slices = write_series(tmp_path / "study")
    memory.put(f"{tmp_path / 'study'}/", "/cloud/study", recursive=True)
    translate("memory://cloud/study", "memory://cloud/series", model=tiny_bundle, force=True)
    written = at(memory, "/cloud/series")
    assert len(written) == len(slices) + 1
    memory.get("/cloud/series/", str(tmp_path / "series"), recursive=True)
    assert io.read(tmp_path / "series").synthetic


def test_a_cohort_does_not_fill_the_temporary_folder(
    memory: Any, cloud: str, tiny_bundle: Bundle
) -> None:
    settings = PrepareSettings().changed({"registration": "rigid"})
    store = prepare(cloud, "memory://cloud/store", settings)
    done = translate(cloud, "memory://cloud/bids/derivatives/mrbridge", model=tiny_bundle)
    kept = [*localise(cloud).rglob("*.nii.gz"), *store.path.rglob("c/0/0/0")]
    assert len(kept) == 8 + 4 + 8
    kept += [item.output for item in done]
    assert max(path.stat().st_size for path in kept) < 100


@pytest.mark.slow
def test_evaluation_gives_the_same_scores(
    memory: Any, cloud: str, bids_scans: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    settings = EvaluateSettings(shown_cases=1)
    # The report of an interrupted evaluation is out of date.
    memory.pipe("/cloud/scores/report.json", b'{"interrupted": true, "created_by": "mrbridge 0.1"}')
    for pairs, out in ((bids_scans, tmp_path / "scores"), (cloud, "memory://cloud/scores")):
        evaluate(tiny_bundle, pairs, out=out, settings=settings)
    here, there = local(tmp_path / "scores"), at(memory, "/cloud/scores")
    assert there.keys() == here.keys()
    assert there["scores.csv"] == here["scores.csv"]
    same = [OF_TIME.sub(b"", files["scores.json"]) for files in (here, there)]
    assert same[0] == same[1]


def test_syntheses_are_scored_as_local_ones(
    memory: Any, cloud: str, bids_scans: Path, tmp_path: Path
) -> None:
    real, synthetic = (f"sub-{n}/anat/sub-{n}_T2w.nii.gz" for n in ("01", "02"))
    settings = EvaluateSettings(shown_cases=0, mask="foreground", registration="off")
    for root, out in ((bids_scans, tmp_path / "scores"), (cloud, "memory://cloud/scores")):
        score(f"{root}/{real}", f"{root}/{synthetic}", out=out, settings=settings)
    written = at(memory, "/cloud/scores")
    assert written["scores.csv"] == (tmp_path / "scores" / "scores.csv").read_bytes()
    assert "report.html" in written


def test_the_command_line_speaks_of_urls(
    memory: Any, cloud: str, tiny_bundle: Bundle, run: Callable[..., Any], tmp_path: Path
) -> None:
    store = "memory://cloud/store"
    code, out, _ = run("prepare", cloud, "-o", store)
    assert (code, out.startswith(f"{store}: T1w ")) == (0, True)
    code, out, _ = run("inspect", store, "--json")
    assert (code, json.loads(out)["path"]) == (0, store)
    code, out, _ = run("inspect", cloud)
    assert (code, "8 of 8 files can be used" in out) == (0, True)
    scan, made = f"{cloud}/sub-01/anat/sub-01_T1w.nii.gz", "memory://cloud/one/sub-01_T2w.nii.gz"
    code, out, _ = run("translate", "-m", tiny_bundle.path, "-i", scan, "-o", made)
    assert (code, out) == (0, f"1 translated: {made}\n")
    assert memory.find("/cloud/one") == [
        "/cloud/one/sub-01_T2w.json",
        "/cloud/one/sub-01_T2w.nii.gz",
    ]
    code, out, err = run("prepare", "memory://cloud/none", "-o", tmp_path / "store")
    assert (code, err) == (2, "error: memory://cloud/none: does not exist. Check the path.\n")
    code, out, err = run("train", "memory://cloud/none", "-o", tmp_path / "run")
    assert (code, "Run mrbridge prepare first" in err) == (2, True)


def test_inspection_writes_page_and_table_that_prepare_takes(
    memory: Any, cloud: str, run: Callable[..., Any], tmp_path: Path
) -> None:
    memory.cp(
        "/cloud/bids/sub-01/anat/sub-01_T1w.nii.gz", "/cloud/bids/sub-05/anat/sub-05_T1w.nii.gz"
    )
    page, table = "memory://cloud/out/page.html", tmp_path / "table.csv"
    code, out, _ = run("inspect", cloud, "-o", page, "--fix", table)
    assert (code, f"Report: {page}" in out) == (0, True)
    assert "complete list: memory://cloud/out/page.findings.json" in out
    assert list(at(memory, "/cloud/out")) == ["page.findings.json", "page.html"]
    assert f"{cloud}/sub-02/anat/sub-02_T2w.nii.gz" in table.read_text()
    code, _, _ = run("prepare", table, "-o", tmp_path / "store")
    assert code == 0
    assert len(Store.open(tmp_path / "store").records()) == 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("train", "{store}", "-o", "s3://b/run"),
            "Train into a folder on this machine, then copy",
        ),
        (("phantom", "-o", "s3://b/phantom"), "Name a folder of this machine"),
        (("demo", "-o", "s3://b/demo"), "Name a folder of this machine"),
        (("export", "-m", "s3://b/run", "-o", "x"), "Copy the model to this machine first"),
        (("info", "s3://b/run"), "Copy the model to this machine first"),
        (("download", "ixi", "-o", "s3://b/ixi"), "Name a folder of this machine"),
    ],
)
def test_what_takes_no_url_says_so(
    run: Callable[..., Any], small_store: Store, arguments: tuple[str, ...], words: str
) -> None:
    code, _, err = run(*(part.format(store=small_store.path) for part in arguments))
    assert code == 2
    assert re.search(rf"^error: s3://b/\w+: is a URL, which is not accepted here\. {words}", err)
    assert not Path("s3:").exists()
