"""Known motions of simulated heads are found again, across contrasts; what does not fit is refused.

Errors are in mm at the brain: how far its points lie from their true places, as the root of
the mean square and at the worst point. Mutual information of two contrasts has its optimum a few
tenths of a millimetre off where slices are thick.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from mrbridge.errors import InputError
from mrbridge.phantom import PhantomSettings
from mrbridge.phantom.subjects import simulate
from mrbridge.preprocessing import registration as module
from mrbridge.preprocessing.registration import register
from mrbridge.preprocessing.resample import box_corners, moved, resample
from mrbridge.volume import Volume


def motion(degrees: tuple[float, float, float], shift: tuple[float, float, float]) -> np.ndarray:
    """Turns about x, y and z through the origin, then a shift in mm."""
    result = np.eye(4)
    for axis, angle in enumerate(np.radians(degrees)):
        one, other = [k for k in range(3) if k != axis]
        turn = np.eye(4)
        turn[[one, other], [one, other]] = np.cos(angle)
        turn[one, other], turn[other, one] = -np.sin(angle), np.sin(angle)
        result = turn @ result
    result[:3, 3] = shift
    return result


MOTION = motion((4, -3, 5), (6, -4, 3))


@pytest.fixture(scope="module")
def head() -> SimpleNamespace:
    """One subject, T1w and T2w in register, and points of its head."""
    subject = simulate(PhantomSettings(spacing_mm=2.5, seed=3), 0)
    assert subject.brain_mask.affine is not None
    points = np.argwhere(subject.brain_mask.voxels)[::50].astype(float)
    return SimpleNamespace(
        t1w=subject.t1w, t2w=subject.t2w, points=moved(points, subject.brain_mask.affine)
    )


@pytest.fixture(scope="module")
def elsewhere(head) -> Volume:
    """The T2w scan as if the patient had moved, with thick oblique slices stored upside down.

    MOTION brings it back.
    """
    affine = motion((8, 5, -6), (0, 0, 0)) @ np.diag([2.2, -2.4, -4.0, 1])
    shape = np.array((84, 96, 44))
    affine[:3, 3] = head.points.mean(axis=0) - affine[:3, :3] @ (shape / 2)
    grid = Volume(np.zeros(shape, np.uint8), np.linalg.inv(MOTION) @ affine)
    return resample(head.t2w, grid, np.linalg.inv(MOTION))


@pytest.fixture(scope="module")
def found(head, elsewhere):
    return register(elsewhere, head.t1w)


def errors(head, transform, truth=MOTION) -> tuple[float, float]:
    """(root mean square, largest) in mm."""
    back = moved(head.points, np.linalg.inv(truth))
    distances = np.linalg.norm(moved(back, transform) - head.points, axis=1)
    return float(np.sqrt(np.mean(distances**2))), float(distances.max())


class TestMotion:
    def test_it_is_found_across_contrasts_and_grids(self, head, found):
        assert errors(head, np.eye(4))[0] > 8
        typical, worst = errors(head, found.transform)
        assert typical < 0.3
        assert worst < 0.6

    def test_its_own_report_is_right(self, head, found):
        assert found.after > found.before + 0.1
        assert found.displacement_mm > errors(head, np.eye(4))[1]  # the scalp lies further out
        assert found.residual_mm < 0.5
        assert found.agreeing >= 5
        assert found.overlap > 0.9
        rigid = found.transform[:3, :3]
        np.testing.assert_allclose(rigid @ rigid.T, np.eye(3), atol=1e-6)

    def test_resampling_with_it_brings_the_scan_back(self, head, elsewhere, found):
        def likeness(volume):
            return np.corrcoef(volume.voxels[core].ravel(), head.t2w.voxels[core].ravel())[0, 1]

        core = tuple(slice(n // 4, -(n // 4)) for n in head.t2w.voxels.shape)
        before, after = (
            likeness(resample(elsewhere, head.t1w, m)) for m in (None, found.transform)
        )
        assert before < 0.7 < 0.9 < after


def test_scans_in_register_stay(small):
    found = register(small.t2w, small.t1w)
    typical, worst = errors(small, found.transform, np.eye(4))
    assert typical < 0.3
    assert worst < 0.5


FAR = motion((0, 0, 0), (-90, 40, 30))


@pytest.fixture(scope="module")
def found_far(small):
    return register(replace(small.t2w, affine=FAR @ small.t2w.affine), small.t1w)


def test_where_a_file_begins_to_count_does_not_matter(small, found_far):
    """Origins that are far apart, as of files that lost theirs: found by centres."""
    assert errors(small, found_far.transform, np.linalg.inv(FAR))[1] < 1


def test_it_is_reproducible(small, found_far):
    again = register(replace(small.t2w, affine=FAR @ small.t2w.affine), small.t1w)
    np.testing.assert_array_equal(again.transform, found_far.transform)
    assert again.as_json() == found_far.as_json()


def test_scans_that_change_places_give_the_inverse(small, found_far):
    back = register(small.t1w, replace(small.t2w, affine=FAR @ small.t2w.affine))
    typical, worst = errors(small, np.linalg.inv(back.transform), found_far.transform)
    assert typical < 0.4
    assert worst < 0.8


@pytest.mark.slow
def test_affine_finds_a_stretch_that_rigid_does_not(head):
    stretch = MOTION @ np.diag([1.06, 0.95, 1.03, 1])
    bent = replace(head.t2w, affine=np.linalg.inv(stretch) @ head.t2w.affine)
    affine = register(bent, head.t1w, "affine")
    assert errors(head, affine.transform, stretch)[0] < 1
    with suppress(InputError):  # where no rigid motion fits well enough
        rigid = register(bent, head.t1w, "rigid")
        assert errors(head, rigid.transform, stretch)[0] > 1.5
        assert affine.after > rigid.after


class TestRefusals:
    def test_noise(self, small):
        noise = np.random.default_rng(0).rayleigh(100, small.t1w.voxels.shape)
        with pytest.raises(InputError, match="did not converge"):
            register(Volume(noise.astype(np.float32), small.t1w.affine), small.t1w)

    def test_empty_scans(self, small):
        empty = replace(small.t1w, voxels=np.zeros_like(small.t1w.voxels))
        with pytest.raises(InputError, match="shows nothing"):
            register(empty, small.t1w)

    def test_pictures(self, small):
        picture = Volume(small.t1w.voxels[:, :, :1], None)
        with pytest.raises(InputError, match="no position in space"):
            register(picture, small.t1w)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"after": 0.4, "displacement_mm": 5.0}, "falls from 0.500 to 0.400"),
            ({"displacement_mm": 130.0}, "move by 130 mm"),
            ({"transform": np.diag([1.3, 1, 1, 1])}, "stretched"),
            ({"overlap": 0.3}, "only 30%"),
            ({"after": 0.0, "before": 0.0}, "nothing in common"),
        ],
    )
    def test_implausible_results(self, changes, message):
        fine = module.Registration(np.eye(4), "rigid", 0.5, 0.6, 2.0, 0.1, 9, 9, 1.0)
        assert module._plausible(fine) is fine
        with pytest.raises(InputError, match=message):
            module._plausible(replace(fine, **changes))

    def test_no_improvement_and_no_motion_is_identity(self):
        shaken = motion((0.1, 0, 0), (0.1, 0, 0))
        found = module.Registration(shaken, "rigid", 0.61, 0.6, 0.3, 0.1, 9, 9, 1.0)
        np.testing.assert_array_equal(module._plausible(found).transform, np.eye(4))

    def test_of_a_flat_optimum_the_scans_as_they_are(self, small, monkeypatch):
        """Searches may end next to the best place, by less than half of a thick slice."""
        near = motion((0, 0, 0), (0, 0, 3))
        monkeypatch.setattr(module._PairSearch, "refined", lambda *_: near)
        i, j, k = small.t1w.voxels.shape
        thick = Volume(np.zeros((i, j, k // 2)), small.t1w.affine @ np.diag([1, 1, 2, 1]))
        t1w, t2w = (resample(scan, thick) for scan in (small.t1w, small.t2w))
        found = register(t2w, t1w)
        assert errors(small, found.transform, np.eye(4))[1] < 1
        assert found.after >= found.before
        assert found.residual_mm > 1
        with pytest.raises(InputError, match="falls from"):
            register(small.t2w, small.t1w)


@pytest.fixture(scope="module")
def small(head) -> SimpleNamespace:
    """The same head with voxels of 5 mm: quick, and good enough where precision is not asked."""
    affine = head.t1w.affine @ np.diag([2, 2, 2, 1])
    shape = [n // 2 for n in head.t1w.voxels.shape]
    grid = Volume(np.zeros(shape, np.uint8), affine)
    scans = {name: resample(getattr(head, name), grid) for name in ("t1w", "t2w")}
    return SimpleNamespace(**scans, points=head.points)


def test_corners_of_a_box():
    corners = box_corners(np.zeros(3), np.array([1, 2, 3]))
    assert len({tuple(corner) for corner in corners.tolist()}) == 8
    assert corners.max(axis=0).tolist() == [1, 2, 3]
