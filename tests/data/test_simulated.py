"""Simulated pairs are pairs, look like the store's scans, and repeat."""

from pathlib import Path

import numpy as np
import pytest

from mrbridge.data import simulated as module
from mrbridge.data.augment import Augmentation, AugmentSettings
from mrbridge.data.dataset import UnpairedSlices
from mrbridge.data.simulated import SimulatedPairs
from mrbridge.preparation.pipeline import StandardSettings
from mrbridge.preparation.store import Store

SIZE = 32
COARSE = StandardSettings(spacing_mm=8.0)


def simulated(
    *, seed: int = 0, source: str = "T1w", target: str = "T2w", cache: Path | None = None
) -> SimulatedPairs:
    return SimulatedPairs(COARSE, False, source, target, SIZE, 2, seed, cache)


@pytest.fixture(scope="module")
def pairs() -> SimulatedPairs:
    return simulated()


def test_a_pair_is_two_images_in_range(pairs: SimulatedPairs) -> None:
    pair = pairs.pair(0)
    assert pair.shape == (2, SIZE, SIZE)
    assert pair.dtype == np.float32
    assert -1 <= pair.min() < 0 < pair.max() <= 1


def test_the_seed_and_the_index_decide(pairs: SimulatedPairs) -> None:
    again, other = simulated(), simulated(seed=1)
    assert np.array_equal(pairs.pairs, again.pairs)
    assert np.array_equal(pairs.pair(7), again.pair(7))
    assert not np.array_equal(pairs.pair(7), pairs.pair(8))
    assert pairs.pairs.shape != other.pairs.shape or not np.array_equal(pairs.pairs, other.pairs)


def test_both_contrasts_show_the_same_head_differently(pairs: SimulatedPairs) -> None:
    t1w, t2w = pairs.pairs[:, 0].astype(float), pairs.pairs[:, 1].astype(float)
    overlap = ((t1w > -0.8) & (t2w > -0.8)).sum() / ((t1w > -0.8) | (t2w > -0.8)).sum()
    assert overlap > 0.7
    inside = (t1w > -0.8) & (t2w > -0.8)
    assert np.corrcoef(t1w[inside], t2w[inside])[0, 1] < 0.5


def test_source_and_target_can_change_places(pairs: SimulatedPairs) -> None:
    # Which slices show enough is told by the source, so that the sets may differ at the ends.
    swapped = simulated(source="T2w", target="T1w")
    means, swapped_means = pairs.pairs.mean((0, 2, 3)), swapped.pairs.mean((0, 2, 3))
    np.testing.assert_allclose(means, swapped_means[::-1], atol=0.1)


def test_a_sample_carries_its_pair_and_both_slices_are_changed_alike(
    small_store: Store, pairs: SimulatedPairs
) -> None:
    plain = UnpairedSlices(small_store, SIZE, 0, None, pairs)[3]
    assert np.array_equal(plain.simulated, pairs.pair(3))
    mirror = AugmentSettings(rotate_degrees=0, scale=0, shift=0)
    flipped = UnpairedSlices(small_store, SIZE, 0, Augmentation(mirror, SIZE), pairs)
    seen = set()
    for index in range(12):
        pair, changed = pairs.pair(index), flipped[index].simulated.numpy()
        same, turned = (np.allclose(changed, p, atol=1e-6) for p in (pair, pair[..., ::-1]))
        assert same or turned
        seen.add(bool(turned))
    assert seen == {True, False}


def test_without_simulation_a_sample_carries_none(small_store: Store) -> None:
    assert UnpairedSlices(small_store, SIZE, 0)[0].simulated.shape == (0, SIZE, SIZE)


def test_pairs_that_were_kept_are_not_simulated_again(
    tmp_path: Path, pairs: SimulatedPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "run" / "simulated.npz"
    assert np.array_equal(simulated(cache=cache).pairs, pairs.pairs)

    def forbidden(*_: object) -> None:
        raise AssertionError("simulated again")

    with monkeypatch.context() as patched:
        patched.setattr(module, "simulate", forbidden)
        again = simulated(cache=cache)
        assert again.pairs.dtype == np.float16
        assert np.array_equal(again.pairs, pairs.pairs)
        # Of another seed or of other contrasts they would be others.
        for change in ({"seed": 1}, {"source": "T2w", "target": "T1w"}):
            with pytest.raises(AssertionError, match="simulated again"):
                simulated(cache=cache, **change)
    assert [path.name for path in cache.parent.iterdir()] == ["simulated.npz"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_cache_is_made_anew(damage: str, tmp_path: Path, pairs: SimulatedPairs) -> None:
    cache = tmp_path / "simulated.npz"
    simulated(cache=cache)
    whole = cache.read_bytes()
    middle = len(whole) // 2
    cache.write_bytes(
        {
            "cut": whole[:middle],
            "flipped": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
            "empty": b"",
            "other": b"not an archive",
        }[damage]
    )
    assert np.array_equal(simulated(cache=cache).pairs, pairs.pairs)
    assert len(cache.read_bytes()) == len(whole)
