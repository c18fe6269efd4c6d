"""Varied subjects: one anatomy, scanned at will, and always the same answer."""

import numpy as np
import pytest
from scipy import ndimage

from mrbridge.phantom.anatomy import paint_head
from mrbridge.phantom.fields import Grid
from mrbridge.phantom.head import template_head
from mrbridge.phantom.pathology import Lesions
from mrbridge.phantom.signals import ConventionalSpinEcho, FastSpinEcho, GradientEcho, Matter
from mrbridge.phantom.subjects import VariedSubject, _stripping, varied_subject

SPACING = 4.0


@pytest.fixture(scope="module")
def subjects() -> list[VariedSubject]:
    return [varied_subject(11, index, SPACING) for index in range(8)]


def test_equal_seeds_give_equal_subjects(subjects: list[VariedSubject]) -> None:
    again = varied_subject(11, 2, SPACING)
    for contrast in ("T1w", "T2w"):
        assert np.array_equal(again.seen[contrast].voxels, subjects[2].seen[contrast].voxels)
        same = again.canonical[contrast].voxels == subjects[2].canonical[contrast].voxels
        assert same.all()
    other = varied_subject(12, 2, SPACING)
    assert not np.array_equal(again.seen["T1w"].voxels, other.seen["T1w"].voxels)


def test_all_images_are_on_one_grid(subjects: list[VariedSubject]) -> None:
    for subject in subjects:
        volumes = [*subject.seen.values(), *subject.canonical.values()]
        assert len({volume.voxels.shape for volume in volumes}) == 1
        assert len({volume.affine.tobytes() for volume in volumes}) == 1
        assert all(np.isfinite(volume.voxels).all() for volume in volumes)


def test_some_are_stripped_and_some_have_thick_slices() -> None:
    drawn = [varied_subject(5, index, 8.0) for index in range(14)]
    assert {subject.stripped for subject in drawn} == {True, False}
    fine = [varied_subject(5, index, 3.0) for index in (3, 4)]
    assert len({subject.seen["T1w"].voxels.shape[2] for subject in fine}) > 1


def test_a_stripped_head_is_black_around_the_brain_in_every_image(
    subjects: list[VariedSubject],
) -> None:
    stripped = next(subject for subject in subjects if subject.stripped)
    outside = ~ndimage.binary_dilation(stripped.canonical["T2w"].voxels > 0, iterations=1)
    assert outside.mean() > 0.5
    for volume in (*stripped.seen.values(), *stripped.canonical.values()):
        assert not volume.voxels[outside].any()


def test_ground_truth_does_not_depend_on_the_scanner(subjects: list[VariedSubject]) -> None:
    """White matter's canonical T1w is the same in all; how dark fluid is seen to be is not."""
    canonical, seen = [], []
    for subject in subjects:
        t1w, t2w = (subject.canonical[c].voxels for c in ("T1w", "T2w"))
        middle = tuple(slice(n // 3, 2 * n // 3) for n in t1w.shape)
        top = np.percentile(t1w[middle], 85)
        white, fluid = np.abs(t1w / top - 1) < 0.05, t2w > 0.55
        canonical.append(top)
        scan = subject.seen["T1w"].voxels
        seen.append(np.median(scan[fluid]) / np.median(scan[white]))
    assert np.std(canonical) / np.mean(canonical) < 0.04
    assert np.ptp(seen) > 0.15


def test_fluid_is_dark_in_t1w_and_bright_in_t2w(subjects: list[VariedSubject]) -> None:
    for subject in subjects:
        t1w, t2w = (subject.canonical[c].voxels for c in ("T1w", "T2w"))
        fluid = t2w > 0.55
        assert fluid.sum() > 50
        assert np.median(t1w[fluid]) < 0.6 * np.percentile(t1w[t1w > 0.01], 60)


def test_stripping_can_be_chosen_and_nothing_else_changes() -> None:
    for index in (0, 1):
        free = varied_subject(11, index, 8.0)
        same, other = (
            varied_subject(11, index, 8.0, wish) for wish in (free.stripped, not free.stripped)
        )
        assert other.stripped is not free.stripped
        for contrast, scan in free.seen.items():
            np.testing.assert_array_equal(scan.voxels, same.seen[contrast].voxels)
            assert (other.seen[contrast].voxels == 0).mean() != (scan.voxels == 0).mean()


def test_stripping_cuts_into_one_place_and_leaves_a_rim_at_another() -> None:
    grid = Grid.over_field_of_view((2.0, 2.0, 3.0))
    brain = np.zeros(grid.shape, np.float32)
    edge = grid.shape[0] // 2
    brain[:edge] = 1
    cuts = [_stripping(np.random.default_rng(seed), brain, grid) for seed in range(6)]
    # Where along x the brain ends, in mm beyond its true end, for every row.
    beyond = np.stack([(cut.sum(axis=0) - edge) * 2.0 for cut in cuts])
    assert set(np.unique(cuts)) == {0.0, 1.0}
    assert -0.8 - 2 < beyond.mean() < 2.2 + 2
    assert np.ptp(beyond.mean(axis=(1, 2))) > 1  # tools differ
    assert max(np.ptp(where) for where in beyond) > 3  # and one tool from place to place
    assert np.abs(np.diff(beyond, axis=1)).max() <= 4  # smoothly


@pytest.mark.parametrize(("refocused", "brighter"), [(True, False), (False, True)])
def test_flowing_blood_is_dark_in_a_spin_echo_and_bright_in_a_gradient_echo(
    refocused: bool, brighter: bool
) -> None:
    head = template_head(2.0)
    t1_weighted = ConventionalSpinEcho(550, 12) if refocused else GradientEcho(9, 3, 18)
    painted = [
        paint_head(
            np.random.default_rng(0),
            head.at(np.stack(np.broadcast_arrays(*head.grid.mesh()), axis=-1)),
            np.stack(np.broadcast_arrays(*head.grid.mesh()), axis=-1),
            head.grid,
            Lesions.draw(np.random.default_rng(2), (0, 0), head),
            {"T1w": t1_weighted},
            Matter(inflow=inflow),
        ).signals["T1w"]
        for inflow in (0.0, 0.25)
    ]
    still, fresh = painted
    assert (fresh > still + 0.01).any() is np.bool_(brighter)
    arteries = head.maps[head.names.index("artery")] > 0.9
    white = np.percentile(fresh, 80)
    assert (np.median(fresh[arteries]) < 0.4 * white) is np.bool_(refocused)


def test_some_skulls_touch_the_brain_and_some_leave_fluid_around_it() -> None:
    head = template_head(2.0)
    maps = dict(zip(head.names, head.maps, strict=True))
    outside = maps["grey"] + maps["white"] + maps["fluid"] + maps["sinus"] < 0.05
    shell = (maps["hull"] < -1.5) & (maps["hull"] > -3) & outside
    where = np.stack(np.broadcast_arrays(*head.grid.mesh()), axis=-1)
    shell &= where[..., 2] > 10
    shares = []
    for seed in range(8):
        t2w = paint_head(
            np.random.default_rng(seed),
            head.at(where),
            where,
            head.grid,
            Lesions.draw(np.random.default_rng(2), (0, 0), head),
            {"T2w": FastSpinEcho(5000, 100)},
        ).signals["T2w"]
        shares.append(np.mean(t2w[shell] > 0.5 * t2w.max()))
    assert min(shares) < 0.2
    assert max(shares) > 0.5


def test_the_other_contrasts_do_not_depend_on_which_there_are() -> None:
    both, more = (
        varied_subject(3, 0, 8.0, contrasts=contrasts)
        for contrasts in (("T1w", "T2w"), ("FLAIR", "T1w", "PDw"))
    )
    np.testing.assert_array_equal(both.seen["T1w"].voxels, more.seen["T1w"].voxels)
    assert list(more.canonical) == ["FLAIR", "T1w", "PDw"]
