"""Simulated groups show one head, look like the store's scans, and repeat."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrbridge.dataset import simulated as module
from mrbridge.dataset.augment import Augmentation
from mrbridge.dataset.sampling import UnpairedSlices
from mrbridge.dataset.settings import AugmentSettings
from mrbridge.dataset.simulated import CANONICAL, SimulatedPairs, draw_group, group_augmentation
from mrbridge.dataset.store import Store
from mrbridge.preprocessing.settings import PreprocessSettings

SIZE = 32
COARSE = PreprocessSettings(spacing_mm=8.0)
SEEN, ANSWERS = slice(0, 4, 2), slice(1, 4, 2)


def simulated(
    *, seed: int = 0, source: str = "T1w", target: str = "T2w", cache: Path | None = None
) -> SimulatedPairs:
    return SimulatedPairs(COARSE, False, source, target, SIZE, 2, seed, cache)


@pytest.fixture(scope="module")
def pairs() -> SimulatedPairs:
    return simulated()


def test_a_group_is_four_images_in_range(pairs: SimulatedPairs) -> None:
    group = pairs.group(0)
    assert group.shape == (4, SIZE, SIZE)
    assert group.dtype == np.float32
    for image in group:
        assert -1 <= image.min() < -0.5 < image.max() <= 1


def test_the_seed_and_the_index_decide(pairs: SimulatedPairs) -> None:
    again, other = simulated(), simulated(seed=1)
    assert np.array_equal(pairs.groups, again.groups)
    assert np.array_equal(pairs.group(7), again.group(7))
    assert not np.array_equal(pairs.group(7), pairs.group(8))
    same_shape = pairs.groups.shape == other.groups.shape
    assert not same_shape or not np.array_equal(pairs.groups, other.groups)


def test_all_images_of_a_group_show_the_same_head(pairs: SimulatedPairs) -> None:
    bright = pairs.groups.astype(float) > -0.9
    for one in range(4):
        for other in range(one):
            both = (bright[:, one] & bright[:, other]).sum()
            assert both / (bright[:, one] | bright[:, other]).sum() > 0.6


def test_the_two_contrasts_differ(pairs: SimulatedPairs) -> None:
    t1w, t2w = (pairs.groups[:, n].astype(float) for n in (1, 3))
    inside = (t1w > -0.95) & (t2w > -0.95)
    assert np.corrcoef(t1w[inside], t2w[inside])[0, 1] < 0.5


def test_ground_truth_has_one_scale_in_all_subjects() -> None:
    """White matter of T1w comes just below the knee, in whole heads and in skull-stripped ones."""
    fine = PreprocessSettings(spacing_mm=4.0)
    modes = []
    for index in range(4):
        subject = module.varied_subject(3, index, 4.0)
        groups = module.subject_groups(subject, fine, ("T1w", "T2w"), 64)
        middle = groups[len(groups) // 2, 1, 24:40, 24:40].astype(float)
        modes.append(np.percentile(middle, 90))
    assert np.ptp(modes) < 0.25
    assert 0.1 < min(modes) <= max(modes) < 0.75


def test_source_and_target_can_be_swapped(pairs: SimulatedPairs) -> None:
    # The source contrast decides which slices show enough, so that the sets may differ at the ends.
    swapped = simulated(source="T2w", target="T1w")
    means, swapped_means = pairs.groups.mean((0, 2, 3)), swapped.groups.mean((0, 2, 3))
    np.testing.assert_allclose(means[[2, 3, 0, 1]], swapped_means, atol=0.1)


def test_a_subject_with_few_slices_is_drawn_as_often() -> None:
    made = object.__new__(SimulatedPairs)
    levels = np.arange(100)[:, None, None, None] * np.ones((1, 4, 8, 8))
    made.seed, made.groups, made._ends = 0, levels, np.array([4, 100])  # type: ignore[assignment]
    made._contrasts = "T1w", "T2w"
    # Both slices of a mixed group are of one subject.
    few = [made.group(index).max() < 4 for index in range(400)]
    assert 150 < sum(few) < 250
    assert all(made.group(index).min() >= 4 for index in range(400) if not few[index])


def test_parts_of_another_slice_stay_in_register() -> None:
    """Each image of a group is the same function of place, before and after."""
    rng = np.random.default_rng(1)
    base = rng.uniform(0, 0.2, (6, 1, 32, 32))
    groups = base + np.array([0.0, 0.2, 0.4, 0.6])[None, :, None, None]
    drawn = [draw_group(groups, np.random.default_rng(seed)) for seed in range(30)]
    for group in drawn:
        for image in (1, 2, 3):
            np.testing.assert_allclose(group[image] - group[0], 0.2 * image, atol=1e-6)
    whole = [any(np.allclose(group[0], one[0]) for one in groups) for group in drawn]
    assert 3 <= sum(whole) <= 18, "most are mixed, some are not"


@pytest.mark.parametrize("t1w", [0, 2])
def test_fluid_of_t1w_is_darkened_and_nothing_else(t1w: int) -> None:
    """A head of fluid (-0.3), grey (0.1) and white matter (0.6) in T1w, air outside, bone dark."""
    levels = np.array([-1.0, -0.8, -0.3, 0.1, 0.6])
    tissue = np.random.default_rng(0).integers(0, 5, (32, 32))
    group: Any = np.zeros((4, 32, 32))
    group[t1w] = levels[tissue]
    group[(t1w + 3) % 4] = np.where(tissue == 2, 1.0, -0.5)
    contrasts = ("T2w", "T1w") if t1w else ("T1w", "T2w")
    drawn = [draw_group(group[None], np.random.default_rng(n), contrasts) for n in range(60)]
    drawn = [g for g in drawn if np.array_equal(g[(t1w + 3) % 4], group[(t1w + 3) % 4])]
    assert len(drawn) > 8, "those that are not mixed"
    changed = 0
    for one in drawn:
        others = np.arange(4) != t1w
        np.testing.assert_array_equal(one[others], group.astype(np.float32)[others])
        air, bone, fluid, grey, white = [one[t1w][tissue == n].mean() for n in range(5)]
        assert (air, bone) == (-1, pytest.approx(-0.8))
        assert bone <= fluid < grey < white <= 1
        changed += fluid < -0.4
        if fluid < -0.4:
            assert (1 - white) / (1 - grey) == pytest.approx(0.4 / 0.9, rel=1e-3)  # stretched
    assert 0.4 < changed / len(drawn) < 0.95


@pytest.mark.parametrize(("cut_away", "darkest"), [(True, -0.8), (False, -0.56)])
def test_fluid_becomes_as_dark_as_bone_only_where_there_is_no_skull(
    cut_away: bool, darkest: float
) -> None:
    """Fluid at -0.3, the darkest at -0.8: how far down fluid is brought at most."""
    tissue = np.random.default_rng(0).integers(1, 5, (32, 32))
    if cut_away:
        tissue[:20] = 0
    group: Any = np.zeros((4, 32, 32))
    group[0] = np.array([-1.0, -0.8, -0.3, 0.1, 0.6])[tissue]
    group[3] = np.where(tissue == 2, 1.0, -0.5)
    drawn = [draw_group(group[None], np.random.default_rng(n)) for n in range(200)]
    fluid = [one[0][tissue == 2].max() for one in drawn if np.array_equal(one[3], group[3])]
    assert len(fluid) > 30
    assert min(fluid) == pytest.approx(darkest, abs=0.02)


def test_without_fluid_nothing_is_darkened() -> None:
    group = np.full((1, 4, 8, 8), 0.25)
    for n in range(20):
        np.testing.assert_array_equal(draw_group(group, np.random.default_rng(n)), group[0])


def test_a_sample_carries_its_group_and_all_slices_move_alike(
    small_store: Store, pairs: SimulatedPairs
) -> None:
    plain = UnpairedSlices(small_store, SIZE, 0, None, pairs)[3]
    assert np.array_equal(plain.simulated, pairs.group(3))
    mirror = AugmentSettings(rotate_degrees=0, scale=0, shift=0)
    flipped = UnpairedSlices(small_store, SIZE, 0, Augmentation(mirror, SIZE), pairs)
    flipped.vary = Augmentation(mirror, SIZE, intensities=(0, 2))
    seen = set()
    for index in range(12):
        group, changed = pairs.group(index), flipped[index].simulated.numpy()
        same, turned = (np.allclose(changed, p, atol=1e-6) for p in (group, group[..., ::-1]))
        assert same or turned
        seen.add(bool(turned))
    assert seen == {True, False}


def test_only_inputs_change_their_intensities() -> None:
    change = group_augmentation(SIZE)
    strong = change.settings.changed({"rotate_degrees": 0, "scale": 0, "shift": 0, "flip": False})
    change = Augmentation(strong, SIZE, intensities=change.intensities)
    group = np.random.default_rng(0).uniform(-1, 1, (4, SIZE, SIZE)).astype(np.float32)
    changed = [change(group[None], [np.random.default_rng(seed)])[0] for seed in range(16)]
    assert all(np.allclose(one[ANSWERS], group[ANSWERS], atol=1e-6) for one in changed)
    assert sum(np.abs(one[SEEN] - group[SEEN]).max() > 0.05 for one in changed) >= 4


def test_the_canonical_range_of_tissues() -> None:
    for contrast, tissue in (("T1w", 0.0095), ("T2w", 0.0)):
        assert CANONICAL[contrast].normalise(np.array([tissue]))[0] == -1


def test_without_simulation_a_sample_has_no_group(small_store: Store) -> None:
    assert UnpairedSlices(small_store, SIZE, 0)[0].simulated.shape == (0, SIZE, SIZE)


def test_cached_groups_are_not_simulated_again(
    tmp_path: Path, pairs: SimulatedPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "run" / "simulated.npz"
    assert np.array_equal(simulated(cache=cache).groups, pairs.groups)

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("simulated again")

    with monkeypatch.context() as patched:
        patched.setattr(module, "varied_subject", forbidden)
        again = simulated(cache=cache)
        assert again.groups.dtype == np.float16
        assert np.array_equal(again.groups, pairs.groups)
        # Of another seed or of other contrasts they would be others.
        for change in ({"seed": 1}, {"source": "T2w", "target": "T1w"}):
            with pytest.raises(AssertionError, match="simulated again"):
                simulated(cache=cache, **change)
    assert [path.name for path in cache.parent.iterdir()] == ["simulated.npz"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_cache_is_replaced(damage: str, tmp_path: Path, pairs: SimulatedPairs) -> None:
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
    assert np.array_equal(simulated(cache=cache).groups, pairs.groups)
    assert len(cache.read_bytes()) == len(whole)
