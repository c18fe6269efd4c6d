"""Samples are a function of seed and index; turns are complete; held-out slices pair."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
import torch

from mrbridge.dataset import loader, sampling as module
from mrbridge.dataset.augment import Augmentation
from mrbridge.dataset.loader import batches_from
from mrbridge.dataset.sampling import SliceBank, UnpairedSlices, held_out_slices
from mrbridge.dataset.settings import AugmentSettings
from mrbridge.dataset.store import Manifest, Store
from mrbridge.errors import StoreError

SIZE = 32


def places(dataset: UnpairedSlices, side: int) -> dict[bytes, tuple[str, int]]:
    """From a slice's bytes to where it lies."""
    bank = dataset.banks[side]
    found = {bank[n].tobytes(): (r.subject, p) for n, (r, p) in enumerate(bank.places)}
    assert len(found) == len(bank), "the test's slices must all differ"
    return found


def same(one: module.Sample, other: module.Sample) -> bool:
    return torch.equal(one.source, other.source) and torch.equal(one.target, other.target)


def test_a_sample_depends_on_seed_and_index_only(small_store: Store) -> None:
    augment = Augmentation(AugmentSettings(bias_field=0.2, gamma=0.1, noise=0.02), SIZE)
    forwards = UnpairedSlices(small_store, SIZE, 5, augment)
    backwards = UnpairedSlices(small_store, SIZE, 5, augment)
    indices = [0, 3, 77, 25, 1000]
    first = {n: forwards[n] for n in indices}
    again = {n: backwards[n] for n in reversed(indices)}
    assert all(same(first[n], again[n]) for n in indices)
    other = UnpairedSlices(small_store, SIZE, 6, augment)
    assert not any(same(first[n], other[n]) for n in indices)


def test_samples_are_images_in_range(small_store: Store) -> None:
    augment = Augmentation(AugmentSettings(bias_field=0.5, gamma=0.5, noise=0.1), SIZE)
    sample = UnpairedSlices(small_store, SIZE, 0, augment)[3]
    for image in (sample.source, sample.target):
        assert image.shape == (1, SIZE, SIZE)
        assert image.dtype == torch.float32
        assert -1 <= float(image.min()) < float(image.max()) <= 1


def test_every_slice_is_seen_once_a_turn(small_store: Store) -> None:
    dataset = UnpairedSlices(small_store, SIZE, 0)
    count = len(dataset.banks[0])
    for side in (0, 1):
        known = places(dataset, side)
        seen = [known[dataset[n][side].numpy()[0].tobytes()] for n in range(2 * count)]
        turns = [seen[:count], seen[count:]]
        assert all(sorted(turn) == sorted(known.values()) for turn in turns)
        assert turns[0] != turns[1], "each turn has an order of its own"
    assert len(dataset) == count


def test_the_two_contrasts_are_ordered_independently(small_store: Store) -> None:
    dataset = UnpairedSlices(small_store, SIZE, 0)
    known = [places(dataset, side) for side in (0, 1)]
    together = sum(
        known[0][sample.source.numpy()[0].tobytes()] == known[1][sample.target.numpy()[0].tobytes()]
        for sample in (dataset[n] for n in range(len(dataset)))
    )
    assert together < len(dataset) / 3


def test_a_store_above_the_limit_is_read_slice_by_slice(
    small_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = SliceBank(small_store, "T1w", "train", SIZE)
    monkeypatch.setattr(module, "MEMORY_LIMIT", 0)
    pieces = SliceBank(small_store, "T1w", "train", SIZE)

    def forbidden(*_: object) -> None:
        raise AssertionError("a whole scan was read")

    expected = [whole[n] for n in range(len(whole))]
    monkeypatch.setattr(small_store, "slices", forbidden)
    for n, image in enumerate(expected):
        np.testing.assert_array_equal(pieces[n], image)


def test_held_out_slices_are_pairs_of_a_subject_that_training_never_sees(
    small_store: Store,
) -> None:
    held = held_out_slices(small_store, SIZE, 4)
    assert held.paired
    assert held.held_out
    assert held.source.shape == held.target.shape == (4, 1, SIZE, SIZE)
    outlines = (held.source > -0.9, held.target > -0.9)
    agree = (outlines[0] & outlines[1]).sum() / (outlines[0] | outlines[1]).sum()
    assert agree > 0.97, "paired slices show one outline"
    trained = {
        bank[n].tobytes()
        for bank in UnpairedSlices(small_store, SIZE, 0).banks
        for n in range(len(bank))
    }
    for images in (held.source, held.target):
        assert not trained & {image.numpy()[0].tobytes() for image in images}


def test_held_out_slices_are_spread_and_at_most_what_there_is(small_store: Store) -> None:
    everything = held_out_slices(small_store, SIZE, 1000)
    few = held_out_slices(small_store, SIZE, 2)
    assert len(everything.source) == sum(len(p) for *_, p in small_store.pairs("val"))
    where = [
        next(n for n, image in enumerate(everything.source) if torch.equal(image, one))
        for one in few.source
    ]
    count = len(everything.source)
    assert where[0] < count / 2 <= where[1]


def test_pictures_are_held_out_but_not_paired(picture_store: Store) -> None:
    held = held_out_slices(picture_store, SIZE, 8)
    assert not held.paired
    assert held.held_out
    assert 1 <= len(held.source) <= 8


def test_without_a_validation_split_training_slices_stand_in(small_store: Store) -> None:
    records = [
        record.model_copy(update={"segments": {"train": [(0, record.shape[0])]}})
        for record in small_store.manifest.records
    ]
    manifest = small_store.manifest.model_copy(update={"records": records})
    held = held_out_slices(Store(small_store.path, manifest), SIZE, 3)
    assert not held.held_out
    assert not held.paired
    assert len(held.source) == 3


def test_a_store_without_a_contrast_to_train_on_is_refused(small_store: Store) -> None:
    records = [r for r in small_store.manifest.records if r.contrast == "T1w"]
    manifest: Manifest = small_store.manifest.model_copy(update={"records": records})
    with pytest.raises(StoreError, match="no training slice of T2w"):
        UnpairedSlices(Store(small_store.path, manifest), SIZE, 0)


@pytest.mark.parametrize("spare_from", [1, 10_000], ids=["worker", "here"])
def test_the_loader_gives_the_steps_that_were_asked_for(
    spare_from: int, small_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_SPARE_FROM", spare_from)
    augment = Augmentation(AugmentSettings(bias_field=0.2, gamma=0.1, noise=0.02), SIZE)
    dataset = UnpairedSlices(small_store, SIZE, 0, augment)
    state = torch.get_rng_state()
    batches = list(batches_from(dataset, 2, 3, 5))
    assert torch.equal(torch.get_rng_state(), state), "the global random state was used"
    assert len(batches) == 2
    for step, batch in zip((3, 4), batches, strict=True):
        for side in (0, 1):
            expected = torch.stack([dataset[2 * step][side], dataset[2 * step + 1][side]])
            assert torch.equal(batch[side], expected)


def test_the_loader_continues_after_prefetched_batches(
    small_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_SPARE_FROM", 10_000)
    dataset = UnpairedSlices(small_store, SIZE, 0)
    made = list(batches_from(dataset, 1, 0, 2 * loader._BURST + 3))
    assert len(made) == 2 * loader._BURST + 3
    for index, batch in enumerate(made):
        assert torch.equal(batch.source[0], dataset[index].source)


def test_the_loaders_process_ends_only_with_training(
    small_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_SPARE_FROM", 1)
    batches = iter(batches_from(UnpairedSlices(small_store, SIZE, 0), 1, 0, 50))
    next(batches)
    (worker,) = batches._workers  # type: ignore[attr-defined]
    for name in ("INT", "TERM"):  # from a stranger, as a terminal or a scheduler is one
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    worker.join(0.5)
    assert worker.is_alive()
    assert sum(1 for _ in range(20) if next(batches)) == 20
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0
