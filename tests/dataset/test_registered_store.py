"""A subject's two contrasts on one grid in the store, for training on pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt

from mrbridge import io
from mrbridge.dataset.prepare import prepare
from mrbridge.dataset.settings import PrepareSettings
from mrbridge.dataset.store import Store
from mrbridge.errors import InputError, SettingsError, SomeScansFailed
from mrbridge.preprocessing import registration as module
from mrbridge.preprocessing.registration import Registration
from mrbridge.volume import Volume

Maker = Callable[..., Path]
SHIFT = np.array([[1, 0, 0, 2.0], [0, 1, 0, -1], [0, 0, 1, 3], [0, 0, 0, 1]])  # whole voxels
RIGID = PrepareSettings(registration="rigid")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was registered how; the answer is always SHIFT."""
    calls: list[tuple[str, int]] = []

    def known(moving: Volume, fixed: Volume, kind: str, seed: int) -> Registration:
        calls.append((kind, seed))
        return Registration(SHIFT, "rigid", 0.4, 0.8, 3.7, 0.2, 9, 9, 1.0)

    monkeypatch.setattr(module, "register", known)
    return calls


@pytest.fixture
def apart(bids: Maker) -> Path:
    """Three subjects whose T2w scans lie elsewhere; SHIFT brings them back."""
    root = bids(3)
    for path in root.glob("sub-*/anat/*_T2w.nii.gz"):
        scan = io.read(path)
        assert scan.affine is not None
        io.write(replace(scan, affine=np.linalg.inv(SHIFT) @ scan.affine, header=None), path)
    return root


def paired(store: Store) -> int:
    return sum(len(store.pairs(split)) for split in ("train", "val", "test"))


def test_the_order_of_axes_in_files_does_not_matter(bids: Maker, tmp_path: Path) -> None:
    root = bids(3)
    for path in root.glob("sub-*/anat/*_T2w.nii.gz"):
        scan = io.read(path)
        low = np.argwhere(scan.voxels > scan.voxels.max() / 4).min(axis=0)[0]
        scan.voxels[: low + 4] = 0  # its own crop differs from that of the T1w scan
        io.write(scan, path)
    plain = prepare(root, tmp_path / "plain")
    for path in root.glob("sub-*/anat/*_T2w.nii.gz"):
        nib.save(nib.load(path).as_reoriented(axcodes2ornt("PSR")), path)
    stored = prepare(root, tmp_path / "stored")
    assert [one.data_sha256 for one in stored.manifest.records] == [
        one.data_sha256 for one in plain.manifest.records
    ]


def test_registration_makes_pairs_and_is_recorded(
    apart: Path, asked: list[tuple[str, int]], tmp_path: Path
) -> None:
    assert paired(prepare(apart, tmp_path / "plain")) == 0
    assert asked == []
    store = prepare(apart, tmp_path / "store", RIGID)
    assert paired(store) == 3
    assert asked == [("rigid", 0)] * 3
    for record in Store.open(tmp_path / "store").records("T2w"):
        assert record.registration is not None
        assert record.registration["reference"] == record.name.replace("T2w", "T1w")
        assert record.registration["moving_to_fixed_ras_mm"] == SHIFT.tolist()
        assert record.registration["residual_mm"] == 0.2
    assert {record.registration is None for record in store.records("T1w")} == {True}


def test_the_voxels_are_those_of_the_scan_in_register(
    apart: Path, asked: list[tuple[str, int]], tmp_path: Path
) -> None:
    """Steps of whole voxels: what comes back is the scan as it was."""
    plain, store = prepare(apart, tmp_path / "plain"), prepare(apart, tmp_path / "store", RIGID)
    for before, after in zip(plain.records("T2w"), store.records("T2w"), strict=True):
        assert before.slice_indices == after.slice_indices
        np.testing.assert_allclose(store.slices(after), plain.slices(before), atol=0.02)


def test_it_is_done_once_and_again_when_the_reference_changes(
    apart: Path, asked: list[tuple[str, int]], tmp_path: Path
) -> None:
    for _ in range(2):
        prepare(apart, tmp_path / "store", RIGID)
    assert len(asked) == 3
    path = apart / "sub-02/anat/sub-02_T1w.nii.gz"
    scan = io.read(path)
    io.write(replace(scan, voxels=scan.voxels + 1, header=None), path)
    prepare(apart, tmp_path / "store", RIGID)
    assert len(asked) == 4
    prepare(apart, tmp_path / "store", RIGID.changed({"registration": "affine"}))
    assert asked[4:] == [("affine", 0)] * 3


def test_a_refusal_is_listed_and_the_others_are_prepared(
    apart: Path, asked: list[tuple[str, int]], tmp_path: Path
) -> None:
    empty = io.read(apart / "sub-02/anat/sub-02_T2w.nii.gz")
    known = module.register

    def refusing(moving: Volume, *others: object) -> Registration:
        if np.array_equal(moving.voxels, empty.voxels):
            raise InputError("registration did not converge: starts end up to 9.0 mm apart")
        return known(moving, *others)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "register", refusing)
        with pytest.raises(SomeScansFailed, match=r"sub-02_T2w.nii.gz: registration did not conv"):
            prepare(apart, tmp_path / "store", RIGID)
    store = Store.open(tmp_path / "store")
    assert [failure.name for failure in store.manifest.failures] == [
        "sub-02/anat/sub-02_T2w.nii.gz"
    ]
    assert paired(store) == 2


def test_scans_without_a_source_scan_are_not_registered(
    apart: Path, asked: list[tuple[str, int]], tmp_path: Path
) -> None:
    (apart / "sub-03/anat/sub-03_T1w.nii.gz").unlink()
    store = prepare(apart, tmp_path / "store", RIGID)
    assert len(asked) == 2
    assert paired(store) == 2
    assert len(store.records("T2w")) == 3


def test_invalid_values_are_refused() -> None:
    with pytest.raises(SettingsError, match="registration"):
        PrepareSettings.build({"registration": "yes"})
