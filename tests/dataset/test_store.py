"""The store: what is written comes back, and damage is never silent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from mrbridge.dataset.settings import PrepareSettings
from mrbridge.dataset.store import (
    Manifest,
    ScanRecord,
    Store,
    array_path,
    data_hash,
    read_if_current,
    write_manifest,
    write_scan,
)
from mrbridge.errors import StoreError
from mrbridge.preprocessing.intensity import IntensityNormalisation

RECIPE = IntensityNormalisation(low=0, high=900)


def values(seed: int, slices: int = 4) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.uniform(-1, 1, (slices, 9, 7)).astype(np.float16)


def record(id: str, data: np.ndarray, **changes: object) -> ScanRecord:
    base = {
        "id": id,
        "subject": "a",
        "session": None,
        "contrast": "T1w",
        "name": "a.nii.gz",
        "source_sha256": "0",
        "key": "k",
        "data_sha256": data_hash(data),
        "shape": data.shape,
        "spacing_mm": (3.0, 1.0, 1.0),
        "slice_indices": list(range(2, 2 + len(data))),
        "grid_hash": "g",
        "recipe": RECIPE,
        "segments": {"train": [(0, len(data))]},
    }
    return ScanRecord.build(base | changes)


def make(path: Path, scans: list[tuple[ScanRecord, np.ndarray]]) -> Store:
    for scan, data in scans:
        write_scan(path, scan, data)
    manifest = Manifest(
        settings=PrepareSettings(),
        records=[scan for scan, _ in scans],
        failures=[],
        ignored=[],
        typical={"T1w": RECIPE, "T2w": RECIPE},
    )
    write_manifest(path, manifest)
    return Store.open(path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make(
        tmp_path / "store",
        [
            (record("t1", values(1)), values(1)),
            (record("t2", values(2), contrast="T2w", segments={"val": [(1, 3)]}), values(2)),
        ],
    )


def test_slices_come_back(store: Store) -> None:
    for seed, scan in enumerate(store.records(), start=1):
        np.testing.assert_array_equal(store.slices(scan), values(seed))
        for index in range(4):
            np.testing.assert_array_equal(store.slice(scan, index), values(seed)[index])
    again = Store.open(store.path)
    assert again.manifest == store.manifest


def test_records_by_contrast_and_split(store: Store) -> None:
    assert [r.id for r in store.records()] == ["t1", "t2"]
    assert [r.id for r in store.records("T2w")] == ["t2"]
    assert [r.id for r in store.records(split="train")] == ["t1"]
    assert store.records("T1w", "val") == []
    assert store.records("T2w")[0].positions("val") == [1, 2]


def test_a_chunk_is_a_slice_and_a_scan_is_a_file(store: Store) -> None:
    header = json.loads((array_path(store.path, "t1") / "zarr.json").read_text())
    assert header["zarr_format"] == 3
    (sharding,) = header["codecs"]
    assert sharding["configuration"]["chunk_shape"] == [1, 9, 7]
    assert header["data_type"] == "float16"
    assert header["attributes"]["mrbridge"]["contrast"] == "T1w"
    assert file_of(store, "t1").is_file()


def file_of(store: Store, id: str) -> Path:
    """The one file that holds the slices of a scan."""
    (path,) = (p for p in (array_path(store.path, id) / "c").rglob("*") if p.is_file())
    return path


def test_a_missing_file_is_reported(store: Store) -> None:
    scan, other = store.records()
    file_of(store, "t1").unlink()
    with pytest.raises(StoreError, match=r"t1\.zarr.*prepare again"):
        store.slices(scan)
    with pytest.raises(StoreError):
        store.slice(scan, 2)
    assert np.isfinite(store.slice(other, 1)).all()


def test_a_damaged_file_is_reported(store: Store) -> None:
    scan = store.records()[0]
    path = file_of(store, "t1")
    whole = path.read_bytes()
    path.write_bytes(file_of(store, "t2").read_bytes())  # readable, and wrong
    with pytest.raises(StoreError):
        store.slices(scan)
    for damaged in (b"garbage", whole[: len(whole) // 2], b""):
        path.write_bytes(damaged)
        with pytest.raises(StoreError):
            store.slices(scan)
        with pytest.raises(StoreError):
            store.slice(scan, 1)
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(StoreError):
            store.slices(scan)


def test_a_store_with_a_file_for_each_slice_is_read(store: Store) -> None:
    """As they were written before a scan was one file."""
    scan, whole = store.records()[0], store.slices(store.records()[0])
    path = array_path(store.path, "t1")
    attributes = dict(zarr.open_array(path, mode="r").attrs)
    array = zarr.create_array(
        store=path,
        shape=whole.shape,
        chunks=(1, *whole.shape[1:]),
        dtype="float16",
        fill_value=float("nan"),
        attributes=attributes,
        overwrite=True,
    )
    array[:] = whole
    np.testing.assert_array_equal(Store.open(store.path).slices(scan), whole)
    (path / "c" / "1" / "0" / "0").unlink()
    again = Store.open(store.path)
    np.testing.assert_array_equal(again.slice(scan, 0), whole[0])
    with pytest.raises(StoreError):
        again.slice(scan, 1)


def test_an_index_beyond_the_scan_is_a_bug_of_the_caller(store: Store) -> None:
    with pytest.raises(IndexError):
        store.slice(store.records()[0], 4)


def test_incomplete_stores_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        Store.open(tmp_path / "absent")
    with pytest.raises(StoreError, match="not a store"):
        Store.open(tmp_path)
    manifest = store.path / "manifest.json"
    text = manifest.read_text()
    for bad in ("{", "[]", "{}", text.replace('"version": 1', '"version": 99'), text[:-30]):
        manifest.write_text(bad)
        with pytest.raises(StoreError, match="damaged"):
            Store.open(store.path)
    manifest.write_text(text)
    shutil.rmtree(array_path(store.path, "t2"))
    with pytest.raises(StoreError, match="t2"):
        Store.open(store.path)
    manifest.unlink()
    with pytest.raises(StoreError, match="did not finish"):
        Store.open(store.path)


def test_an_array_of_another_shape_is_reported(store: Store) -> None:
    write_scan(store.path, record("t1", values(5, 3)), values(5, 3))
    with pytest.raises(StoreError):
        store.slices(store.records()[0])


def test_only_an_intact_scan_of_the_same_key_is_kept(store: Store) -> None:
    kept = read_if_current(store.path, "t1", "k")
    assert kept is not None
    assert kept.model_copy(update={"segments": {"train": [(0, 4)]}}) == store.records()[0]
    assert read_if_current(store.path, "t1", "other") is None
    assert read_if_current(store.path, "absent", "k") is None
    file_of(store, "t1").unlink()
    assert read_if_current(store.path, "t1", "k") is None


def test_pairs_show_the_same_anatomy(tmp_path: Path) -> None:
    def scan(id: str, contrast: str, **changes: object) -> tuple[ScanRecord, np.ndarray]:
        everything: dict[str, object] = {"segments": {"val": [(0, 4)]}}
        return record(id, values(1), contrast=contrast, **(everything | changes)), values(1)

    store = make(
        tmp_path / "store",
        [
            scan("s", "T1w", slice_indices=[2, 3, 4, 6]),
            scan("t", "T2w", slice_indices=[3, 4, 5, 6], segments={"val": [(0, 2), (3, 4)]}),
            scan("other session", "T2w", session="2"),
            scan("other grid", "T1w", subject="b"),
            scan("other grid's", "T2w", subject="b", grid_hash="h"),
            scan("unknown", "T1w", subject=None),
            scan("unknown's", "T2w", subject=None),
        ],
    )
    pairs = store.pairs("val")
    assert [(s.id, t.id, shared) for s, t, shared in pairs] == [
        ("s", "t", [(1, 0), (2, 1), (3, 3)])
    ]
    assert store.pairs("train") == []


def test_pictures_pair_by_name_within_a_subject(tmp_path: Path) -> None:
    scans = []
    for subject in ("a", None):
        for contrast, name in (("T1w", "7_T1.png"), ("T1w", "8_T1.png"), ("T2w", "8_T2.png")):
            data = values(1, 1)
            changes = {"subject": subject, "contrast": contrast, "name": name, "spacing_mm": None}
            scans.append((record(f"{subject}{name}", data, slice_indices=[0], **changes), data))
    pairs = make(tmp_path / "store", scans).pairs("train")
    assert [(s.id, t.id, shared) for s, t, shared in pairs] == [
        ("a8_T1.png", "a8_T2.png", [(0, 0)])
    ]
