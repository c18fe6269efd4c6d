"""Simulated subjects: reproducible, in register, and like MR scans of heads."""

import hashlib

import numpy as np
import pytest
import torch
from scipy import ndimage

from mrbridge.errors import SettingsError
from mrbridge.phantom import PhantomSettings, SimulatedSubject, simulate
from mrbridge.phantom.head import sample, template_head
from mrbridge.phantom.pathology import Lesions

COARSE = PhantomSettings(spacing_mm=4.0)
PERFECT = COARSE.changed({"noise": 0.0, "bias": 0.0})


def fingerprint(subject: SimulatedSubject) -> str:
    volumes = (subject.t1w, subject.t2w, subject.brain_mask, subject.lesions)
    return hashlib.sha256(b"".join(v.voxels.tobytes() for v in volumes)).hexdigest()


@pytest.fixture(scope="module")
def subject():
    return simulate(COARSE, 0)


@pytest.fixture(scope="module")
def perfect():
    """Only lesions differ from `healthy`."""
    return simulate(PERFECT.changed({"lesions": [40, 40], "spacing_mm": 2.0}), 0)


@pytest.fixture(scope="module")
def healthy():
    return simulate(PERFECT.changed({"lesions": [0, 0], "spacing_mm": 2.0}), 0)


def test_the_same_seed_and_index_give_the_same_subject(subject):
    again = simulate(COARSE.changed({"subjects": 3}), 0)
    assert fingerprint(again) == fingerprint(subject)


def test_threads_do_not_matter(subject):
    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    try:
        assert fingerprint(simulate(COARSE, 0)) == fingerprint(subject)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("changes", "index"), [({}, 1), ({"seed": 1}, 0)])
def test_another_index_or_seed_gives_another_subject(subject, changes, index):
    other = simulate(COARSE.changed(changes), index)
    assert fingerprint(other) != fingerprint(subject)
    assert (other.brain_mask.voxels != subject.brain_mask.voxels).sum() > 200
    assert other.sequences != subject.sequences


def test_noise_and_field_leave_the_anatomy(subject):
    clean = simulate(PERFECT, 0)
    np.testing.assert_array_equal(clean.brain_mask.voxels, subject.brain_mask.voxels)
    np.testing.assert_array_equal(clean.lesions.voxels, subject.lesions.voxels)
    assert np.corrcoef(clean.t1w.voxels.ravel(), subject.t1w.voxels.ravel())[0, 1] > 0.98


def test_scans_are_in_register(subject):
    volumes = (subject.t1w, subject.t2w, subject.brain_mask, subject.lesions)
    assert len({v.voxels.shape for v in volumes}) == 1
    for volume in volumes:
        np.testing.assert_array_equal(volume.affine, subject.t1w.affine)
    assert subject.t1w.spacing == pytest.approx((4, 4, 4))
    assert (subject.t1w.contrast, subject.t2w.contrast) == ("T1w", "T2w")
    assert subject.label == "01"


def test_contrasts_show_tissues_in_their_order(healthy):
    """Classes found only from the T1w scan have the textbook order in T2w."""
    t1w, t2w = (v.voxels.astype(float) for v in (healthy.t1w, healthy.t2w))
    core = ndimage.binary_erosion(healthy.brain_mask.voxels, iterations=4)
    fluid, grey, white = (
        core & (t1w > low) & (t1w < high)
        for low, high in np.percentile(t1w[core], [(0, 4), (25, 35), (75, 90)])
    )
    assert np.median(t2w[fluid]) > 1.25 * np.median(t2w[grey])
    assert np.median(t2w[grey]) > 1.1 * np.median(t2w[white])


def test_air_is_dark_fat_bright_in_t1w_and_skull_dark(healthy):
    t1w = healthy.t1w.voxels.astype(float)
    brain = healthy.brain_mask.voxels > 0
    assert t1w[:2].max() < 0.02 * np.median(t1w[brain])
    away = ndimage.distance_transform_edt(~brain) * 2.0
    top = np.zeros_like(brain)
    top[:, :, int(brain.shape[2] * 0.65) :] = True
    around = t1w[top & (away > 2) & (away < 20)]
    assert np.percentile(around, 97) > 1.2 * np.median(t1w[brain])  # scalp
    assert np.percentile(around, 15) < 0.35 * np.median(t1w[brain])  # bone


def test_lesions_are_seen_in_t2w_and_barely_in_t1w(perfect, healthy):
    where = perfect.lesions.voxels > 0
    assert where.sum() > 50
    assert not healthy.lesions.voxels.any()
    changes = []
    for ill, well in ((perfect.t1w, healthy.t1w), (perfect.t2w, healthy.t2w)):
        a, b = (v.voxels.astype(float) for v in (ill, well))
        scale = np.median(b[b > 0]) / np.median(a[b > 0])  # the two gains differ slightly
        changes.append(np.mean(a[where] * scale / b[where] - 1))
    in_t1w, in_t2w = changes
    assert in_t2w > 0.6
    assert -0.2 < in_t1w < 0.05
    assert not np.any(where & ~(perfect.brain_mask.voxels > 0))


def test_the_number_of_lesions_is_within_its_range():
    head = template_head(4.0)
    draws = [Lesions.draw(np.random.default_rng(seed), (2, 4), head) for seed in range(30)]
    assert {len(lesions.centres) for lesions in draws} == {2, 3, 4}


def test_most_lesions_are_next_to_the_ventricles():
    head = template_head(4.0)
    lesions = Lesions.draw(np.random.default_rng(0), (200, 200), head)
    fluid, hull = sample(head.maps[2:4], head.grid, lesions.centres[None, None])[:, 0, 0]
    assert np.mean(fluid < 0.5) > 0.97  # some touch them, at 4 mm
    assert np.median(hull) < -25  # deep within the head


def test_iron_darkens_the_pallidum_in_t2w(healthy):
    """The pallidum (19, -5, -1) against the white matter of the centrum semiovale."""
    t2w = healthy.t2w.voxels.astype(float)
    inverse = np.linalg.inv(healthy.t2w.affine)

    def around(x, y, z):
        medians = []
        for side in (-1, 1):
            i, j, k = (np.round((inverse @ (side * x, y, z, 1))[:3]).astype(int)).tolist()
            medians.append(np.median(t2w[i - 1 : i + 2, j - 2 : j + 3, k - 1 : k + 2]))
        return np.mean(medians)

    assert around(19, -5, -1) < 0.9 * around(12, -18, 8)  # pallidum, thalamus


def test_intensity_does_not_determine_the_other_contrast(subject):
    brain = subject.brain_mask.voxels > 0
    correlation = np.corrcoef(subject.t1w.voxels[brain], subject.t2w.voxels[brain])[0, 1]
    assert -0.93 < correlation < -0.5


def test_noise_in_air_is_rayleigh():
    noisy = simulate(COARSE.changed({"noise": 0.2}), 0).t1w.voxels.astype(float)
    air = noisy[:3]
    # The ratio of mean and standard deviation of a Rayleigh distribution.
    assert air.mean() / air.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.05)


def test_thick_slices():
    thick = simulate(COARSE.changed({"slice_thickness_mm": 10.0}), 0)
    assert thick.t1w.spacing == pytest.approx((4, 4, 10))
    assert thick.t1w.voxels.shape == thick.brain_mask.voxels.shape == (49, 58, 18)
    # The centre of the field of view stays where it is.
    centre = thick.t1w.affine @ [*((np.array(thick.t1w.voxels.shape) - 1) / 2), 1]
    np.testing.assert_allclose(centre[:3], (0, -18, 22))


def test_thick_slices_show_the_same_brain(subject):
    thick = simulate(COARSE.changed({"slice_thickness_mm": 10.0}), 0)
    volumes = [s.brain_mask.voxels.sum() * np.prod(s.t1w.spacing) for s in (subject, thick)]
    assert volumes[1] == pytest.approx(volumes[0], rel=0.03)


def test_stripped_scans_are_zero_outside_the_brain(subject):
    stripped = simulate(COARSE.changed({"stripped": True}), 0)
    outside = stripped.brain_mask.voxels == 0
    assert not stripped.t1w.voxels[outside].any()
    assert not stripped.t2w.voxels[outside].any()
    np.testing.assert_array_equal(stripped.brain_mask.voxels, subject.brain_mask.voxels)


@pytest.mark.parametrize(
    "changes",
    [
        {"lesions": [5, 2]},
        {"slice_thickness_mm": 2.0},
        {"spacing_mm": 0.0},
        {"noise": -1},
        {"subjects": 0},
        {"colour": "red"},
    ],
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(SettingsError):
        COARSE.changed(changes)
