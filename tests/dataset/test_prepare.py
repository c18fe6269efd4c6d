"""From files to a store: resumable, the same every time, and honest about what failed."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import mrbridge
from mrbridge import io
from mrbridge.dataset import prepare_scan
from mrbridge.dataset.prepare import prepare
from mrbridge.dataset.settings import PrepareSettings
from mrbridge.dataset.store import Store
from mrbridge.errors import (
    InputError,
    MrbridgeWarning,
    OutputError,
    SettingsError,
    SomeScansFailed,
    StoreError,
)
from mrbridge.io.temporary import this_machine
from mrbridge.phantom.dataset import write_bids
from mrbridge.phantom.settings import PhantomSettings
from mrbridge.preprocessing.preprocess import preprocess
from mrbridge.preprocessing.settings import PreprocessSettings
from mrbridge.volume import Volume

Maker = Callable[..., Path]
Head = Callable[..., Volume]


def content(store: Path) -> dict[str, str]:
    """Every file of a store and the hash of its bytes."""
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.rglob("*"))
        if path.is_file()
    }


def times(store: Path) -> dict[str, int]:
    """When each array was made."""
    return {p.parent.name: p.stat().st_mtime_ns for p in store.glob("scans/*.zarr/zarr.json")}


def test_preprocessing_is_undone(head: Head) -> None:
    volume = head(1, "T1w")
    standard = preprocess(volume, PreprocessSettings())
    assert standard.slices.shape[0] >= 12
    assert standard.slices.min() == -1
    assert standard.slices.max() == pytest.approx(1)
    assert standard.foreground.shape == standard.slices.shape
    back = standard.undo(standard.normalisation.restore(standard.slices), 0.0)
    inside = volume.voxels <= standard.normalisation.high
    np.testing.assert_allclose(back[inside], volume.voxels[inside], atol=0.01)
    assert (back[volume.voxels == 0] == 0).all(), "background zero stays zero"


def test_a_background_that_is_not_black_counts_as_black(head: Head, tmp_path: Path) -> None:
    def of_mean_0(voxels: NDArray[np.float32]) -> NDArray[np.float32]:
        brain = voxels > 0
        return np.where(brain, (voxels - voxels[brain].mean()) / voxels[brain].std(), 0)

    changes = {"1": lambda voxels: voxels + 500, "2": of_mean_0}
    for folder in ("plain", "changed"):
        io.write(head(3, "T2w"), tmp_path / folder / "sub-3_T2w.nii.gz")
        for number, change in changes.items():
            volume = head(int(number), "T1w")
            voxels = volume.voxels.astype(np.float32)
            voxels = voxels if folder == "plain" else change(voxels)
            path = tmp_path / folder / f"sub-{number}_T1w.nii.gz"
            io.write(replace(volume, voxels=voxels), path)
    plain = prepare(tmp_path / "plain", tmp_path / "a")
    with pytest.warns(MrbridgeWarning, match="sub-2.*count as background"):
        changed = prepare(tmp_path / "changed", tmp_path / "b")
    (shifted, zscored, _), before = changed.manifest.records, plain.manifest.records
    np.testing.assert_allclose(changed.slices(shifted), plain.slices(before[0]), atol=0.01)
    images = (np.ravel(changed.slices(zscored)), np.ravel(plain.slices(before[1])))
    assert np.corrcoef(*images)[0, 1] > 0.99


def test_orientation_in_the_file_does_not_matter(head: Head) -> None:
    volume = head(1, "T2w")
    turned = np.ascontiguousarray(volume.voxels.transpose(2, 0, 1)[:, ::-1])
    back = np.eye(4)[[1, 2, 0, 3]]  # from (k, i, j) to (i, j, k)
    back[0, 1], back[0, 3] = -1, volume.voxels.shape[0] - 1
    other = preprocess(Volume(turned, volume.affine @ back), PreprocessSettings())
    first = preprocess(volume, PreprocessSettings())
    np.testing.assert_array_equal(other.slices, first.slices)
    assert other.grid.hash == first.grid.hash


def test_a_bids_data_set(bids: Maker, tmp_path: Path) -> None:
    store = mrbridge.prepare(bids(4), tmp_path / "store")
    assert [r.contrast for r in store.records()] == ["T1w", "T2w"] * 4
    assert {len(store.records("T1w", split)) for split in ("val", "test")} == {1}
    for record in store.records():
        values = store.slices(record)
        assert values.shape == record.shape
        assert 0 < len(record.slice_indices) == len(values) <= 12, "empty slices are left out"
        assert values.min() == -1
        assert values.max() == 1
        assert record.spacing_mm == (3, 1, 1)
        source = io.read(tmp_path / f"bids/sub-{record.subject}/anat/{record.name}")
        if record.contrast == "T1w":  # the other one is cropped like it
            full = preprocess(source, PreprocessSettings())
            shown = full.foreground.mean(axis=(1, 2)) >= 0.02
            np.testing.assert_array_equal(values, full.slices[shown].astype("f2"))
    ((source_scan, target_scan, shared),) = store.pairs("val")
    assert source_scan.subject == target_scan.subject
    assert len(shared) > 5
    assert source_scan.shape[1:] == target_scan.shape[1:]
    assert source_scan.origin == target_scan.origin
    assert store.manifest.typical["T1w"].high == pytest.approx(710, abs=15)
    assert store.manifest.failures == []


def test_heads_of_other_size_in_2d_images_are_reported(pictures: Maker, tmp_path: Path) -> None:
    folder = pictures()
    for path in (folder / "TrainT2").iterdir():
        pixels = io.read(path).voxels.repeat(3, axis=0).repeat(3, axis=1)
        io.write(Volume(pixels, None), path)
    with pytest.warns(MrbridgeWarning, match=r"T2w images are about 1.9 times .* Resample one"):
        prepare(folder, tmp_path / "store")


def test_pictures(pictures: Maker, tmp_path: Path) -> None:
    store = prepare(pictures(), tmp_path / "store")
    assert len(store.records()) == 60
    assert [r.name for r in store.records("T2w")[:7]][-2:] == ["Image #10.png", "Image #11.png"]
    # They use less than three quarters of 8 bit: the range that is used counts.
    assert all(90 < r.recipe.high < 192 for r in store.records("T1w"))
    counts = [len(store.records("T1w", split)) for split in ("train", "val", "test")]
    assert counts == [30 - 3 - 6, 3, 0]
    assert store.pairs("val") == []
    two = prepare(
        [tmp_path / "pictures/TrainT1", tmp_path / "pictures/TrainT2"], tmp_path / "store2"
    )
    assert [r.data_sha256 for r in two.records()] == [r.data_sha256 for r in store.records()]


def test_the_store_is_in_the_order_of_the_scans(bids: Maker, tmp_path: Path) -> None:
    """Though in each session the reference, here T2w, comes first."""
    settings = PrepareSettings(source="T2w", target="T1w")
    for workers in (1, 2):
        store = prepare(bids(3), tmp_path / f"store{workers}", settings, workers=workers)
        names = [record.name for record in store.records()]
        assert len(names) == 6
        assert names == sorted(names)


def test_a_row_that_is_repeated_counts_once(bids: Maker, tmp_path: Path) -> None:
    root, table = bids(subjects=2), tmp_path / "table.csv"
    rows = [f"s{n},{c},{p}" for c in ("T1w", "T2w") for n, p in enumerate(root.rglob(f"*{c}*"))]
    table.write_text("subject,contrast,path\n" + "\n".join([*rows, rows[0]]))
    store = prepare(table, tmp_path / "store")
    assert len(store.records()) == 4
    assert [one.reason for one in store.manifest.ignored] == ["is listed twice"]


def test_a_scan_in_another_format_is_a_leak(bids: Maker, tmp_path: Path) -> None:
    root = bids(subjects=3)
    copy = root / "sub-09/anat/sub-09_T1w.nii"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(gzip.decompress((root / "sub-01/anat/sub-01_T1w.nii.gz").read_bytes()))
    (root / "participants.tsv").write_text(
        "participant_id\tsplit\nsub-01\ttrain\nsub-02\ttrain\nsub-03\tval\nsub-09\ttest\n"
    )
    message = "one file is in .*such as sub-01_T1w and sub-09_T1w: scores will be inflated"
    with pytest.warns(MrbridgeWarning, match=message):
        prepare(root, tmp_path / "store")


@pytest.mark.parametrize("contrast", ["T1w", "T2w"])
def test_a_file_under_another_name_is_a_leak(contrast: str, bids: Maker, tmp_path: Path) -> None:
    root = bids(subjects=3)
    copy = root / f"sub-09/anat/sub-09_{contrast}.nii.gz"
    copy.parent.mkdir(parents=True)
    shutil.copy(root / "sub-01/anat/sub-01_T1w.nii.gz", copy)
    (root / "participants.tsv").write_text(
        "participant_id\tsplit\nsub-01\ttrain\nsub-02\ttrain\nsub-03\tval\nsub-09\ttest\n"
    )
    message = rf"such as sub-01_T1w and sub-09_{contrast}: scores will be inflated.*--fix"
    look = pytest.warns(MrbridgeWarning, match="likely T2w instead of T1w, or the reverse: sub-09")
    with pytest.warns(MrbridgeWarning, match=message), look if contrast == "T2w" else nullcontext():
        prepare(root, tmp_path / "store")


@pytest.mark.parametrize("swapped", [0, 1, 3])
def test_contrasts_that_were_swapped_are_reported(swapped: int, tmp_path: Path) -> None:
    settings = PhantomSettings(subjects=3, spacing_mm=6, lesions=(0, 0))
    subjects = sorted(write_bids(tmp_path / "ph", settings).glob("sub-*/anat"))
    for folder in subjects[3 - swapped :]:
        t1w, t2w = sorted(folder.glob("*w.nii.gz"))
        t1w.rename(tmp_path / "kept")
        t2w.rename(t1w)
        (tmp_path / "kept").rename(t2w)
    words = {
        1: "likely T2w instead of T1w, or the reverse: sub-03",
        3: "given as T1w look like T2w",
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prepare(tmp_path / "ph", tmp_path / "store")
    reported = [str(one.message) for one in caught if "swapped" in str(one.message)]
    assert len(reported) == (swapped > 0)
    assert all(words[swapped] in one for one in reported)
    if swapped == 3:  # another organ may look like anything
        other = PrepareSettings().changed({"standard": {"foreground": "threshold"}})
        prepare(tmp_path / "ph", tmp_path / "other", other)


def test_scans_of_one_subject_that_show_two_heads_are_reported(bids: Maker, tmp_path: Path) -> None:
    path = bids(subjects=3) / "sub-02/anat/sub-02_T2w.nii.gz"
    scan = io.read(path)
    io.write(replace(scan, voxels=np.roll(scan.voxels, 5, 1)), path)
    message = r"sub-02_T2w.nii.gz: does not show the anatomy of sub-02_T1w.nii.gz"
    with pytest.warns(MrbridgeWarning, match=message) as caught:
        prepare(tmp_path / "bids", tmp_path / "store")
    assert len(caught) == 1


def test_2d_images_of_one_subject_that_show_two_heads_are_reported(
    head: Head, tmp_path: Path
) -> None:
    rows = ["subject,contrast,path"]
    for number in (1, 2, 3, 4):
        for contrast in ("T1w", "T2w"):
            voxels = head(number, contrast, (60, 72, 12)).voxels
            # One was moved within its field of view, the others stay; crops differ.
            voxels = np.roll(voxels, 6, 1) if (number, contrast) == (3, "T2w") else voxels
            for place in (5, 6, 7):
                name = f"p{number}_{contrast}_slice{place}.png"
                io.write(Volume(voxels[:, :, place, None].astype(np.uint16), None), tmp_path / name)
                rows.append(f"p{number},{contrast},{name}")
    (tmp_path / "scans.csv").write_text("\n".join(rows))
    message = (
        r"2D images of 1 of 4 subjects, such as p3_T1w_slice5.png and p3_T2w_slice5.png of p3, do"
    )
    with pytest.warns(MrbridgeWarning, match=message) as caught:
        prepare(tmp_path / "scans.csv", tmp_path / "store")
    assert len(caught) == 1


def test_a_table_with_splits(bids: Maker, tmp_path: Path) -> None:
    bids(3)
    rows = ["subject,session,contrast,path,split"]
    for number, split in ((1, "train"), (2, "val"), (3, "test")):
        for contrast in ("T1w", "T2w"):
            name = f"sub-{number:02}_{contrast}.nii.gz"
            rows.append(f"s{number},,{contrast},bids/sub-{number:02}/anat/{name},{split}")
    (tmp_path / "scans.csv").write_text("\n".join(rows))
    store = prepare(tmp_path / "scans.csv", tmp_path / "store")
    splits = {r.subject: list(r.segments) for r in store.records()}
    assert splits == {"s1": ["train"], "s2": ["val"], "s3": ["test"]}


def test_any_number_of_workers_gives_the_same_store(bids: Maker, tmp_path: Path) -> None:
    source = bids(2)
    (source / "sub-02/anat/sub-02_run-2_T1w.nii.gz").write_bytes(b"broken")
    for workers in (1, 2):
        with pytest.raises(SomeScansFailed, match="run-2"):
            prepare(source, tmp_path / f"store{workers}", workers=workers)
    assert content(tmp_path / "store1") == content(tmp_path / "store2")


def test_running_again_does_no_work(
    bids: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = bids(2), tmp_path / "store"
    prepare(source, out)
    before, made = content(out), times(out)
    monkeypatch.setattr(prepare_scan, "preprocess", lambda *_: pytest.fail("work was done again"))
    prepare(source, out)
    assert content(out) == before
    assert times(out) == made
    # Another split takes no work either.
    settings = PrepareSettings(seed=7, validation_share=0.5)
    assert prepare(source, out, settings).manifest.settings == settings
    assert times(out) == made


def test_a_changed_file_is_redone_and_only_that(bids: Maker, tmp_path: Path, head: Head) -> None:
    source, out = bids(2), tmp_path / "store"
    first = prepare(source, out)
    made = times(out)
    io.write(head(9, "T2w"), source / "sub-01/anat/sub-01_T2w.nii.gz")
    second = prepare(source, out)
    changed = {name for name, time in times(out).items() if time != made[name]}
    assert changed == {"sub-01_T2w.zarr"}
    assert first.records()[1].data_sha256 != second.records()[1].data_sha256
    second.slices(second.records()[1])
    # The other contrast is cropped like the source's.
    io.write(head(9, "T1w"), source / "sub-01/anat/sub-01_T1w.nii.gz")
    made = times(out)
    prepare(source, out)
    changed = {name for name, time in times(out).items() if time != made[name]}
    assert changed == {"sub-01_T1w.zarr", "sub-01_T2w.zarr"}


def test_changed_settings_redo(bids: Maker, tmp_path: Path) -> None:
    source, out = bids(2), tmp_path / "store"
    prepare(source, out)
    store = prepare(source, out, PrepareSettings(standard=PreprocessSettings(spacing_mm=2)))
    assert {r.spacing_mm for r in store.records()} == {(3.0, 2.0, 2.0)}
    fresh = prepare(source, tmp_path / "fresh", store.manifest.settings)
    assert content(out) == content(fresh.path)
    fuller = prepare(source, out, store.manifest.settings.changed({"min_foreground": 0}))
    for record, before in zip(fuller.records(), store.records(), strict=True):
        assert set(record.slice_indices) > set(before.slice_indices)


def test_damage_is_repaired_by_running_again(bids: Maker, tmp_path: Path) -> None:
    source, out = bids(2), tmp_path / "store"
    prepare(source, out)
    before = content(out)
    shutil.rmtree(out / "scans/sub-01_T1w.zarr/c")
    shutil.rmtree(out / "scans/sub-02_T2w.zarr")
    (out / "manifest.json").write_text("{")
    prepare(source, out)
    assert content(out) == before


def test_leftovers_and_scans_that_are_gone_are_removed(bids: Maker, tmp_path: Path) -> None:
    source, out = bids(3), tmp_path / "store"
    prepare(source, out)
    shutil.rmtree(source / "sub-03")
    (out / "scans" / f".~{this_machine()}-99999999-0a1b2c3d.zarr").mkdir()
    (out / f".~{this_machine()}-99999999-0a1b2c3d.json").touch()
    prepare(source, out)
    assert content(out) == content(prepare(source, tmp_path / "fresh").path)
    assert not list(out.glob(".~*"))


def test_a_bad_scan_does_not_stop_the_others(bids: Maker, tmp_path: Path, head: Head) -> None:
    source, out = bids(3), tmp_path / "store"
    truncated = source / "sub-02/anat/sub-02_T2w.nii.gz"
    truncated.write_bytes(truncated.read_bytes()[:-100])
    flat = Volume(np.full((8, 8, 8), 3, np.int16), np.eye(4))
    io.write(flat, source / "sub-03/anat/sub-03_run-2_T1w.nii.gz")
    mark = "synthetic T1w by mrbridge"
    marked = source / "sub-03/anat/sub-03_run-3_T1w.nii.gz"
    io.write(head(3, "T1w"), marked, synthetic_note=mark)
    with pytest.raises(SomeScansFailed, match="3 of 8") as caught:
        prepare(source, out)
    assert caught.value.exit_code == 1
    assert "sub-02_T2w" in str(caught.value)
    store = Store.open(out)
    assert caught.value.result.manifest == store.manifest
    assert len(store.records()) == 5
    reasons = {Path(f.name).name: f.reason for f in store.manifest.failures}
    assert "damaged" in reasons["sub-02_T2w.nii.gz"]
    assert "constant" in reasons["sub-03_run-2_T1w.nii.gz"]
    assert "synthetic" in reasons["sub-03_run-3_T1w.nii.gz"]
    assert not Path(store.manifest.failures[0].name).is_absolute()


def test_other_contrasts_are_ignored_with_a_reason(bids: Maker, tmp_path: Path) -> None:
    store = prepare(bids(2, ("T1w", "T2w", "FLAIR")), tmp_path / "store")
    reasons = {Path(i.name).name: i.reason for i in store.manifest.ignored}
    assert reasons == {f"sub-0{n}_FLAIR.nii.gz": "is FLAIR" for n in (1, 2)}
    other = prepare(tmp_path / "bids", tmp_path / "other", PrepareSettings(target="FLAIR"))
    assert {r.contrast for r in other.records()} == {"T1w", "FLAIR"}


def test_empty_pictures_are_ignored(pictures: Maker, tmp_path: Path) -> None:
    source = pictures(12)
    io.write(Volume(np.zeros((24, 20, 1), np.uint8), None), source / "TrainT1/Image #99.png")
    speck = np.zeros((24, 20, 1), np.uint8)
    speck[3, 3] = 200
    io.write(Volume(speck, None), source / "TrainT1/Image #98.png")
    store = prepare(source, tmp_path / "store")
    assert [Path(i.name).name for i in store.manifest.ignored] == ["Image #98.png", "Image #99.png"]


def test_a_missing_contrast_says_what_was_found(bids: Maker, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no T2w scans; found 2 T1w.*2 files: is PDw"):
        prepare(bids(2, ("T1w", "PDw")), tmp_path / "store")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found no scans"):
        prepare(tmp_path / "empty", tmp_path / "store")
    assert not (tmp_path / "store").exists(), "nothing is written"


def test_a_contrast_of_which_nothing_is_usable(bids: Maker, tmp_path: Path) -> None:
    source = bids(1)
    (source / "sub-01/anat/sub-01_T2w.nii.gz").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"no T2w scan could be used.*sub-01_T2w"):
        prepare(source, tmp_path / "store")


def test_a_place_that_is_taken(bids: Maker, tmp_path: Path) -> None:
    source = bids(1)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("mine")
    (tmp_path / "folder" / "scans").mkdir()
    for name in ("file", "folder"):
        with pytest.raises(OutputError, match="not a store"):
            prepare(source, tmp_path / name)
    assert (tmp_path / "folder/thesis.tex").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    prepare(source, tmp_path / "empty")


def test_scans_of_one_name_do_not_overwrite_each_other(tmp_path: Path, head: Head) -> None:
    for number, folder in enumerate(("a b", "a_b", "A-B")):
        io.write(head(number, "T1w"), tmp_path / "in" / folder / "T1.nii.gz")
    io.write(head(5, "T2w"), tmp_path / "in" / "c" / "T2.nii.gz")
    store = prepare(tmp_path / "in", tmp_path / "store")
    assert len({r.id.casefold() for r in store.records()}) == 4
    assert len({r.data_sha256 for r in store.records()}) == 4
    for record in store.records():
        store.slices(record)


def test_files_left_out_are_logged_and_reported(
    bids: Maker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = bids(3)
    scans = source / "sub-01" / "anat"
    shutil.copy(scans / "sub-01_T1w.nii.gz", scans / "sub-01_desc-brain_T1w.nii.gz")
    (source / "backup" / "anat").mkdir(parents=True)
    shutil.copy(scans / "sub-01_T1w.nii.gz", source / "backup/anat/sub-01_T1w.nii.gz")
    (source / "sub-03/anat/sub-03_T2w.nii.gz").unlink()
    (source / "sub-03/anat/sub-03_T2w.nii.gz").symlink_to(".git/annex/objects/k")
    caplog.set_level("INFO", "mrbridge")
    with pytest.raises(SomeScansFailed, match="1 of 6 scans failed"):
        prepare(source, tmp_path / "store")
    assert "left out (is derived (desc-brain), and the raw scan is there): sub-01/" in caplog.text
    assert re.search(r"Run: datalad get \S*sub-03_T2w\.nii\.gz", caplog.text)
    report = json.loads((tmp_path / "store" / "report.json").read_text())
    assert sorted(row["id"] for row in report["done"]) == [
        f"sub-0{k}_T{c}w" for k, c in ((1, 1), (1, 2), (2, 1), (2, 2), (3, 1))
    ]
    assert report["failed"] == [
        {"source": "sub-03/anat/sub-03_T2w.nii.gz", "error": "is not fetched (datalad get)"}
    ]
    assert {row["source"] for row in report["ignored"]} == {
        "backup/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_desc-brain_T1w.nii.gz",
    }


def test_the_store_may_lie_inside_its_source(bids: Maker) -> None:
    source = bids(2)
    before = content(prepare(source, source / "derivatives/store").path)
    assert content(prepare(source, source / "derivatives/store").path) == before


def test_settings_are_checked() -> None:
    with pytest.raises(SettingsError, match="T9-w"):
        PrepareSettings(target="T9-w")
    with pytest.raises(SettingsError, match="both"):
        PrepareSettings(target="T1w")
    with pytest.raises(SettingsError, match="did you mean 'gap'"):
        PrepareSettings.build({"gaps": 3})


@pytest.mark.parametrize(("name", "records"), [("seed-png", 89), ("ixi-slices", 50)])
def test_real_pictures(
    name: str, records: int, real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    store = prepare(real_data(name), tmp_path / "store")
    assert len(store.records()) == records
    for contrast in ("T1w", "T2w"):
        assert len(store.records(contrast, "val")) >= 2
    assert {r.shape[0] for r in store.records()} == {1}
    assert len({r.grid_hash for r in store.records()}) == 1, "of one size, as they were"


def test_real_volumes_unpaired(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    source = real_data("open-ms-mni")
    table = tmp_path / "scans.csv"
    table.write_text(
        "subject,session,contrast,path\n"
        f"patient07,,T1w,{source.resolve()}/patient07/T1.nii.gz\n"
        f"patient19,,T2w,{source.resolve()}/patient19/T2.nii.gz\n"
    )
    store = prepare(table, tmp_path / "store")
    first, second = store.records()
    assert (first.subject, first.contrast) == ("patient07", "T1w")
    assert (second.subject, second.contrast) == ("patient19", "T2w")
    assert first.grid_hash == second.grid_hash
    for record in (first, second):
        assert set(record.segments) == {"train", "val"}
        assert 100 < record.shape[0] < 160
    held = [{r.slice_indices[i] for i in r.positions("val")} for r in (first, second)]
    assert held[0] == held[1]


def test_a_kill_leaves_a_store_that_is_resumed(bids: Maker, tmp_path: Path) -> None:
    source, out = bids(2), tmp_path / "store"
    program = (
        "import os, signal\n"
        "import zarr\n"
        "from mrbridge.dataset.prepare import prepare\n"
        "create, made = zarr.create_array, []\n"
        "def killed(*arguments, **options):\n"
        "    made.append(create(*arguments, **options))\n"
        "    if len(made) == 3:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return made[-1]\n"
        "zarr.create_array = killed\n"
        f"prepare({str(source)!r}, {str(out)!r})\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    whole = times(out)
    assert len(whole) == 2 + 1, "two whole arrays and a half one under a temporary name"
    with pytest.raises(StoreError, match="did not finish"):
        Store.open(out)
    prepare(source, out)
    kept = {name: time for name, time in whole.items() if not name.startswith(".~")}
    assert kept.items() <= times(out).items(), "what was whole is kept"
    assert content(out) == content(prepare(source, tmp_path / "fresh").path)


@pytest.mark.parametrize("shape", [(2, 30, 30), (30, 2, 30), (30, 30, 1), (3, 2, 5), (17, 33, 2)])
def test_any_shape_can_be_preprocessed(shape: tuple[int, int, int]) -> None:
    voxels = np.random.default_rng(0).integers(0, 900, shape).astype(np.int16)
    affine = np.diag([0.7, 1.3, 5, 1.0])
    volume = Volume(voxels, affine)
    standard = preprocess(volume, PreprocessSettings())
    assert np.isfinite(standard.slices).all()
    assert standard.undo(standard.slices, -1.0).shape == shape


class TestSmallFolders:
    """Folders of a few pictures: all of them are accounted for."""

    @staticmethod
    def pictures(root: Path, *names: str) -> Path:
        rng = np.random.default_rng(0)
        for contrast in ("T1", "T2"):
            for name in names:
                pixels = rng.integers(50, 250, (24, 20, 1, 1)).astype(np.uint8)
                io.write(Volume(pixels[..., 0], None), root / contrast / f"{name}.png")
        return root

    def test_one_more_picture_leaves_no_fewer_to_train(
        self, run: Callable[..., tuple[int, str, str]], tmp_path: Path
    ) -> None:
        before = 0
        for count in (7, 8, 9, 12):
            folder = self.pictures(tmp_path / str(count), *(f"slice_{n}" for n in range(count)))
            code, out, _ = run("prepare", folder, "-o", tmp_path / f"store{count}", "--json")
            assert code == 0
            slices = json.loads(out)["T1w"]
            assert sum(slices.values()) == count
            assert slices["train"] >= max(before, 7)
            before = slices["train"]

    def test_slices_in_no_split_are_reported(
        self, run: Callable[..., tuple[int, str, str]], tmp_path: Path
    ) -> None:
        folder = self.pictures(tmp_path / "in", *(f"Image #{n}" for n in range(15)))
        code, out, _ = run("prepare", folder, "-o", tmp_path / "store")
        assert code == 0
        words = "T1w 11 slices to train, 1 to validate, 0 to test, 3 in no split"
        assert words in out
        assert "no subjects known" in out
        code, out, _ = run("inspect", tmp_path / "store")
        assert code == 0
        assert words in out
        code, out, _ = run("inspect", tmp_path / "store", "--json")
        assert json.loads(out)["splits"]["T2w"]["none"] == 3

    @pytest.mark.parametrize("pattern", ["IXI0{who}2-HH-1211_{n}", "{letter}_{n}", "0{who}_{n}"])
    @pytest.mark.parametrize("apart", [False, True])
    def test_subjects_in_file_names_are_split_by_subject(
        self, pattern: str, apart: bool, tmp_path: Path
    ) -> None:
        names = [
            pattern.format(who=who, letter="abcde"[who], n=n)
            for who in range(5)
            for n in (80, 81, 82)
        ]
        folder = self.pictures(tmp_path / "in", *names)
        store = prepare([folder / "T1", folder / "T2"] if apart else folder, tmp_path / "store")
        assert len(store.counts()) == 5
        for subject in store.counts():
            splits = {
                split
                for record in store.records()
                if record.subject == subject
                for split in record.segments
            }
            assert len(splits) == 1, "a subject in two splits, or in none"
        assert store.split_counts()["T1w"] == {"train": 9, "val": 3, "test": 3, "none": 0}
