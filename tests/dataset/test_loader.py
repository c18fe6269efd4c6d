"""Batches made on a device are the loader's: same slices, same changes, same order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrbridge.dataset import loader
from mrbridge.dataset.augment import Augmentation
from mrbridge.dataset.loader import (
    GpuSlices,
    batches_from,
    fits,
)
from mrbridge.dataset.sampling import Sample, SliceBank, UnpairedSlices
from mrbridge.dataset.settings import AugmentSettings
from mrbridge.dataset.simulated import SimulatedPairs
from mrbridge.dataset.store import Store

SIZE = 32
CPU = torch.device("cpu")
QUIET = AugmentSettings(bias_field=0.2, gamma=0.1)
NOISY = AugmentSettings(bias_field=0.2, gamma=0.1, noise=0.05)
MIRROR = AugmentSettings(rotate_degrees=0, scale=0, shift=0)


def dataset(
    store: Store, augment: AugmentSettings | None = QUIET, pairs: bool = True
) -> UnpairedSlices:
    changed = None if augment is None else Augmentation(augment, SIZE)
    made = UnpairedSlices(store, SIZE, 5, changed)
    if pairs:
        rng = np.random.default_rng(0)
        images = rng.uniform(-1, 1, (7, 4, SIZE, SIZE)).astype(np.float16)
        made.simulated = simulated(images)
        made.pairs = [(0, 3), (5, 1), (2, 2)]
        made.vary = changed  # noise, of which there always is some, differs on a device
    return made


def simulated(images: np.ndarray) -> SimulatedPairs:
    """Groups without a simulation."""
    made = object.__new__(SimulatedPairs)
    made.seed, made.groups, made._ends = 5, images, np.array([3, 7])
    made._contrasts = "T1w", "T2w"
    return made


def assert_close(one: Sample, other: Sample) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("pairs", [True, False])
@pytest.mark.parametrize("augment", [QUIET, MIRROR, None], ids=["all", "mirror", "none"])
def test_batches_are_those_of_the_loader(
    augment: AugmentSettings | None, pairs: bool, batch_size: int, small_store: Store
) -> None:
    # Steps beyond the first turn of the slices, entered in the middle.
    first, last = 40, 46
    expected = list(batches_from(dataset(small_store, augment, pairs), batch_size, first, last))
    slices = GpuSlices(dataset(small_store, augment, pairs), CPU)
    starts = range(first * batch_size, last * batch_size, batch_size)
    made = [slices.batch(range(start, start + batch_size)) for start in starts]
    assert len(made) == len(expected) == last - first
    assert len(made[0].source) == batch_size
    for one, other in zip(made, expected, strict=True):
        assert_close(one, other)
    assert not torch.equal(made[0].source, made[1].source)


def test_it_starts_at_any_step_noise_included(small_store: Store) -> None:
    data = dataset(small_store, NOISY)
    whole, later = (
        [slices.batch((step, step + 1)) for step in range(first, 12, 2)]
        for first, slices in ((0, GpuSlices(data, CPU)), (8, GpuSlices(data, CPU)))
    )
    for one, other in zip(whole[4:], later, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_noise_has_the_strength_that_was_drawn(small_store: Store) -> None:
    mild = AugmentSettings(flip=False, rotate_degrees=0, scale=0, shift=0, noise=0.2)
    data = dataset(small_store, mild)
    assert data.simulated is not None
    data.simulated.groups[:] = 0  # grey: nothing is cut off
    clean = dataset(small_store, mild)
    clean.simulated = data.simulated
    batch = GpuSlices(data, CPU).batch(range(64)).simulated
    loaded = torch.stack([clean[n].simulated for n in range(64)])
    found, expected = batch[:, ::2].std((1, 2, 3)), loaded[:, ::2].std((1, 2, 3))
    # The standard deviation of 2048 numbers is known to about 1.6 %.
    torch.testing.assert_close(found, expected, rtol=0.08, atol=1e-6)
    assert (expected > 0.003).sum() > 15
    assert (expected == 0).sum() > 15
    assert not torch.allclose(batch[:, 0], batch[:, 2]), "each slice has noise of its own"


def test_scans_come_in_the_order_of_the_slices(small_store: Store) -> None:
    bank = SliceBank(small_store, "T2w", "train", SIZE)
    whole = np.concatenate(list(bank.scans()))
    assert whole.dtype == np.float16
    np.testing.assert_array_equal(whole, np.stack([bank[n] for n in range(len(bank))]))


def test_blocks_of_one_scan_are_found(picture_store: Store) -> None:
    bank = SliceBank(picture_store, "T1w", "train", SIZE)
    whole = np.concatenate(list(bank.scans()))
    np.testing.assert_array_equal(whole, np.stack([bank[n] for n in range(len(bank))]))


def test_only_what_fits_is_kept_on_a_gpu(
    small_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataset(small_store)
    size = 2 * SIZE**2 * sum(map(len, data.banks))
    gpu = torch.device("cuda")
    for free, expected in ((size / loader.SHARE + 4, True), (size / loader.SHARE - 4, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 2 * free))
        assert fits(data, gpu) is expected
    assert not fits(data, CPU), "a CPU's slices lie in its memory already"


def test_the_loader_chooses(small_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset(small_store)
    monkeypatch.setattr(loader, "fits", lambda *_: True)
    batches = batches_from(data, 2, 1, 3, CPU)
    assert isinstance(batches, map), "batches that are made on the device"
    monkeypatch.setattr(loader, "fits", lambda *_: False)
    for one, other in zip(batches, batches_from(data, 2, 1, 3, CPU), strict=True):
        assert_close(one, other)
