"""Pairs on two grids: brought together, and scored where both show something."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, ornt_transform

from mrbridge.errors import InputError
from mrbridge.evaluation.cases import Case, Direction
from mrbridge.evaluation.registration import CaseScans, PairRegistration, register_pair
from mrbridge.evaluation.scoring import Job, score_case
from mrbridge.evaluation.settings import EvaluateSettings
from mrbridge.io import read, write
from mrbridge.preprocessing.geometry import to_slices
from mrbridge.preprocessing.registration import Registration

THERE, BACK = Direction("T1w", "T2w"), Direction("T2w", "T1w")
PLAIN = EvaluateSettings(cycle=False)
SHAPE = (48, 56, 44)
AFFINE = np.array([[-3.5, 0, 0, 84], [0, 3.5, 0, -98], [0, 0, 3.5, -77], [0, 0, 0, 1]])
MOTION = np.array([[1, 0, 0, 7.0], [0, 1, 0, -3.5], [0, 0, 1, 3.5], [0, 0, 0, 1]])  # whole voxels


@pytest.fixture
def pair(world, tmp_path) -> SimpleNamespace:
    """T1w, and a T2w of the same head elsewhere in space that lacks the lowest ten slices.

    MOTION brings the T2w scan to the T1w scan.
    """
    t1w = world.t1w_of(0, SHAPE)
    t2w = world.t2w_of(t1w)[:, :, 10:]
    affine = np.linalg.inv(MOTION) @ AFFINE
    affine[:3, 3] += 10 * affine[:3, 2]
    images = {
        "T1w": world.save(t1w, tmp_path / "t1.nii.gz", AFFINE),
        "T2w": world.save(t2w, tmp_path / "t2.nii.gz", affine),
    }
    return SimpleNamespace(case=Case("a", "a", images), t1w=t1w, t2w=t2w, affine=affine)


def known(fixed="T1w", transform=MOTION) -> PairRegistration:
    return PairRegistration(fixed, Registration(transform, "rigid", 0.5, 0.9, 9.0, 0.1, 9, 9, 0.8))


class TestFound:
    def test_registered_pairs_score_almost_like_aligned_ones(self, pair, world):
        registration = register_pair(pair.case, PLAIN)
        assert registration is not None
        assert registration.fixed == "T1w"
        assert registration.result.residual_mm < 1
        assert np.abs(registration.result.transform - MOTION)[:3, 3].max() < 1
        job = Job(
            pair.case, (THERE, BACK), PLAIN, model=world.Knowing(20), registration=registration
        )
        ideal = score_case(replace(job, registration=known()))
        for key, found in score_case(job).items():
            got, best = (one.scores["model"]["fit"]["psnr"] for one in (found, ideal[key]))
            assert best > got > best - 6
            assert got > found.scores["copy"]["fit"]["psnr"] + 6

    def test_pairs_on_one_grid_are_registered_only_on_request(self, pair, world, tmp_path):
        one_grid = world.save(world.t2w_of(pair.t1w), tmp_path / "on.nii.gz", AFFINE)
        case = replace(pair.case, images=pair.case.images | {"T2w": one_grid})
        assert register_pair(case, PLAIN) is None
        assert register_pair(pair.case, PLAIN.changed({"registration": "off"})) is None
        asked = register_pair(case, PLAIN.changed({"registration": "rigid"}))
        assert asked is not None
        assert asked.result.displacement_mm < 1

    def test_a_failed_registration_names_the_scans(self, pair, world, tmp_path):
        noise = np.random.default_rng(0).rayleigh(200, (24, 24, 24))
        path = world.save(noise, tmp_path / "noise.nii.gz", AFFINE)
        case = replace(pair.case, images=pair.case.images | {"T2w": path})
        with pytest.raises(
            InputError, match=r"T2w and T1w could not be registered: .* did not converge"
        ):
            register_pair(case, PLAIN)

    def test_a_single_scan_is_not_registered(self, pair):
        images = {"T1w": pair.case.images["T1w"]}
        assert register_pair(replace(pair.case, images=images), PLAIN) is None

    @pytest.mark.parametrize(("step", "onto"), [(1.03, "T1w"), (1.1, "T2w")])
    def test_the_scan_with_thicker_slices_is_fixed(
        self, pair, world, tmp_path, monkeypatch, step, onto
    ):
        monkeypatch.setattr("mrbridge.evaluation.registration.register", lambda *_: known().result)
        affine = pair.affine @ np.diag([1, 1, step, 1])
        path = world.save(pair.t2w, tmp_path / "thick.nii.gz", affine)
        case = replace(pair.case, images=pair.case.images | {"T2w": path})
        registration = register_pair(case, PLAIN)
        assert registration is not None
        assert registration.fixed == onto


class TestPlaced:
    def test_the_fixed_scan_keeps_its_voxels(self, pair):
        for onto, transform in (("T1w", MOTION), ("T2w", np.linalg.inv(MOTION))):
            scans = CaseScans(pair.case, PLAIN, known(onto, transform))
            itself = to_slices(read(pair.case.images[onto]), None)[0]
            first = 10 if onto == "T1w" else 0
            np.testing.assert_array_equal(scans.stacks[onto][first:], itself[first:])
            assert {stack.shape for stack in scans.stacks.values()} == {itself.shape}
            assert to_slices(scans.grid, None)[0].shape == itself.shape

    def test_the_moving_scan_is_resampled_to_the_fixed_grid(self, pair, world):
        scans = CaseScans(pair.case, PLAIN, known())
        truth = to_slices(replace(scans.volumes["T1w"], voxels=world.t2w_of(pair.t1w)), None)[0]
        np.testing.assert_allclose(scans.stacks["T2w"][10:], truth[10:], atol=1)

    @pytest.mark.parametrize("mask", ["foreground", "whole"])
    def test_the_mask_is_inside_both_fields_of_view(self, pair, mask):
        scans = CaseScans(pair.case, PLAIN.changed({"mask": mask}), known())
        for inside in scans.masks.values():
            assert not inside[:10].any()
            assert inside[10:].any()
        if mask == "whole":
            assert scans.masks["T1w"][10:].all()

    def test_what_one_scan_does_not_cover_is_in_no_measure(self, pair, world, tmp_path):
        everywhere = np.ones(SHAPE)
        lesions = world.save(
            np.arange(SHAPE[2]) % 20 == 5 * everywhere, tmp_path / "l.nii.gz", AFFINE
        )
        world.save(everywhere, tmp_path / "t1_desc-brain_mask.nii.gz", AFFINE)
        scans = CaseScans(replace(pair.case, lesions=lesions), PLAIN, known())
        for stack in (*scans.stacks.values(), scans.lesions, scans.brain):
            assert not stack[:10].any()
            assert stack[10:].any()

    def test_a_mask_file_may_have_the_grid_of_either_scan(self, pair, world, tmp_path):
        inside = world.inside(SHAPE)
        inside[:24] = False
        on_t1w = world.save(inside, tmp_path / "m1.nii.gz", AFFINE)
        on_t2w = world.save(inside[:, :, 10:], tmp_path / "m2.nii.gz", pair.affine)
        for path in (on_t1w, on_t2w):
            scans = CaseScans(replace(pair.case, mask=path), PLAIN, known())
            for mask in scans.masks.values():
                assert mask.sum() == inside[:, :, 10:].sum()
        elsewhere = world.save(inside, tmp_path / "m3.nii.gz", 2 * AFFINE)
        with pytest.raises(InputError, match="scan and mask are not on one grid"):
            CaseScans(replace(pair.case, mask=elsewhere), PLAIN, known())

    def test_a_pair_that_does_not_overlap_is_refused(self, pair):
        far = MOTION.copy()
        far[0, 3] = 1000
        with pytest.raises(InputError, match="mask is empty"):
            CaseScans(pair.case, PLAIN, known(transform=far))

    def test_without_a_registration_two_grids_are_refused(self, pair):
        with pytest.raises(InputError, match="not on one grid"):
            CaseScans(pair.case, PLAIN)


class TestOrderOfAxes:
    """One grid, with its axes in another order in the file: nothing is registered or resampled."""

    @pytest.fixture
    def stored(self, world, tmp_path):
        """A case on one grid, and the same with each other file stored differently."""
        t1w = world.t1w_of(0, SHAPE)
        t2w, mask = world.t2w_of(t1w), (t1w > 720).astype(np.float32)
        arrays = {"t1": t1w, "t2": t2w, "made": t2w + 1, "mask": mask}
        cases = []
        for axes in ("LAS", "PSR"):
            paths = {}
            for name, array in arrays.items():
                image = nib.Nifti1Image(array, AFFINE)
                if name != "t1":
                    image = image.as_reoriented(
                        ornt_transform(nib.io_orientation(AFFINE), axcodes2ornt(axes))
                    )
                paths[name] = tmp_path / axes / f"{name}.nii.gz"
                paths[name].parent.mkdir(exist_ok=True)
                nib.save(image, paths[name])
            images = {"T1w": paths["t1"], "T2w": paths["t2"]}
            masks = {"mask": paths["mask"], "lesions": paths["mask"]}
            cases.append(Case("a", "a", images, synthetic=paths["made"], **masks))
        return cases

    def test_pairs_masks_and_lesions(self, stored):
        stored = [replace(case, synthetic=None) for case in stored]
        assert [register_pair(case, PLAIN) for case in stored] == [None, None]
        plain, other = (CaseScans(case, PLAIN) for case in stored)
        for contrast in ("T1w", "T2w"):
            np.testing.assert_array_equal(plain.stacks[contrast], other.stacks[contrast])
            np.testing.assert_array_equal(plain.masks[contrast], other.masks[contrast])
        np.testing.assert_array_equal(plain.lesions, other.lesions)

    def test_synthetic_images(self, stored):
        plain, other = (
            CaseScans(replace(case, images={"T1w": case.images["T1w"]}), PLAIN) for case in stored
        )
        np.testing.assert_array_equal(
            plain.stack_of(plain.synthetic, None), other.stack_of(other.synthetic, None)
        )


def test_a_synthetic_image_of_another_contrast_is_refused(pair, world, tmp_path):
    made = world.save(pair.t1w, tmp_path / "sub-01_desc-synth_T2w.nii.gz", AFFINE)
    case = Case("a", "a", {"T1w": pair.case.images["T1w"]}, synthetic=made)
    with pytest.raises(InputError, match="is T1w, and its synthetic image is T2w"):
        CaseScans(case, PLAIN)


class TestScores:
    def test_a_wrong_registration_lowers_the_scores_of_a_perfect_model(self, pair, world):
        job = Job(pair.case, (THERE, BACK), PLAIN, model=world.Knowing(), registration=known())
        shifted = MOTION.copy()
        shifted[0, 3] += 3
        right, wrong = (
            score_case(replace(job, registration=p)) for p in (known(), known(transform=shifted))
        )
        for key in (THERE.key, BACK.key):
            at, off = (one[key].scores["model"]["fit"]["psnr"] for one in (right, wrong))
            assert at > 50
            assert off < 30

    def test_a_perfect_cycle_scores_perfectly_on_any_grid(self, pair, world):
        settings = EvaluateSettings(noise=0.05)
        for registration in (known(), known("T2w", np.linalg.inv(MOTION))):
            job = Job(
                pair.case, (THERE, BACK), settings, model=world.Knowing(), registration=registration
            )
            for one in score_case(job).values():
                assert one.cycle["cycle"]["fit"]["psnr"] > 60

    def test_a_synthetic_image_on_another_grid(self, pair, world, tmp_path):
        made = replace(
            read(pair.case.images["T2w"]), voxels=pair.t2w + 1, header=None, synthetic=True
        )
        truth = world.save(world.t2w_of(pair.t1w), tmp_path / "true.nii.gz", AFFINE)
        path = write(made, tmp_path / "made.nii.gz")
        case = Case("a", "a", {"T2w": truth}, synthetic=path)
        direction = (Direction(None, "T2w"),)
        registration = register_pair(case, PLAIN)
        assert registration is not None
        found = score_case(Job(case, direction, PLAIN, registration=registration))["to_T2w"]
        assert found.scores["model"]["fit"]["psnr"] > 30
        onto_made = known("synthesis", np.linalg.inv(MOTION))
        found = score_case(Job(case, direction, PLAIN, registration=onto_made))["to_T2w"]
        assert found.scores["model"]["fit"]["psnr"] > 40
