"""Grids, masks and monotone baselines of single cases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mrbridge import metrics
from mrbridge.errors import InputError, MrbridgeWarning
from mrbridge.evaluation.cases import Case, Direction
from mrbridge.evaluation.scoring import Job, fit_baselines, sample_case, score_case, voxels_per_case
from mrbridge.evaluation.settings import EvaluateSettings

THERE, BACK = Direction("T1w", "T2w"), Direction("T2w", "T1w")
PLAIN = EvaluateSettings(cycle=False)


@pytest.fixture
def job(world, tmp_path):
    t1w = world.t1w_of(0)
    images = {
        "T1w": world.save(t1w, tmp_path / "t1.nii.gz"),
        "T2w": world.save(world.t2w_of(t1w), tmp_path / "t2.nii.gz"),
    }
    return Job(Case("a", "a", images), (THERE, BACK), PLAIN, model=world.Knowing())


class TestScores:
    def test_a_perfect_model_scores_perfectly_and_noise_worse(self, job, world):
        grades = [
            score_case(replace(job, model=world.Knowing(noise)))[THERE.key].scores["model"]["fit"]
            for noise in (0, 10, 60)
        ]
        assert grades[0]["psnr"] > 80
        assert grades[0]["psnr"] > grades[1]["psnr"] > grades[2]["psnr"]
        assert grades[0]["ssim"] > grades[1]["ssim"] > grades[2]["ssim"]

    def test_a_model_that_copies_its_input_scores_like_the_input(self, job, world):
        found = score_case(replace(job, model=world.Copying()))
        for one in found.values():
            assert one.scores["model"] == one.scores["copy"]

    def test_scores_are_those_of_the_metrics_in_any_orientation(self, job, world):
        noisy = world.Knowing(40)
        found = score_case(replace(job, model=noisy))[THERE.key]
        t1w = world.t1w_of(0)
        made = world.Knowing(40).translate(_volume(t1w, world.AFFINE), "T2w").voxels
        expected = metrics.scores(world.t2w_of(t1w), made, t1w > 0)
        # The foreground found by intensities is not to the voxel that of the phantom.
        assert found.scores["model"]["fit"]["psnr"] == pytest.approx(
            expected["fit"]["psnr"], abs=0.5
        )

    def test_by_slice_covers_slices_with_anatomy_only(self, job, world):
        found = score_case(job)[THERE.key]
        sizes = world.inside().sum(axis=(0, 1))
        assert set(found.slices) <= set(np.flatnonzero(sizes).tolist())
        assert len(found.by_slice["model"]["psnr"]) == len(found.slices) > 5
        assert found.counts is not None
        assert found.counts.sum() == found.voxels


def _volume(voxels, affine):
    from mrbridge.volume import Volume

    return Volume(voxels, affine)


class TestCycle:
    def test_a_perfect_cycle_scores_perfectly_and_noise_lowers_it(self, job):
        found = score_case(replace(job, settings=EvaluateSettings(noise=0.05)))
        for one in found.values():
            assert one.cycle["cycle"]["fit"]["psnr"] > 80
            assert 10 < one.cycle["noisy"]["fit"]["psnr"] < 40

    def test_noise_is_seeded(self, job):
        def noisy(seed):
            found = score_case(replace(job, settings=EvaluateSettings(seed=seed)))
            return found[THERE.key].cycle["noisy"]["fit"]["psnr"]

        assert noisy(1) == noisy(1) != noisy(2)

    def test_no_cycle_unless_requested(self, job):
        assert score_case(job)[THERE.key].cycle == {}
        assert job.model.calls == ["T2w", "T1w"]


class TestGrid:
    @pytest.mark.parametrize(("moved", "fits"), [(0.0005, True), (0.01, False), (2.0, False)])
    def test_affines_may_differ_by_a_thousandth_of_a_millimetre(
        self, job, world, tmp_path, moved, fits
    ):
        affine = world.AFFINE.copy()
        affine[0, 3] += moved
        path = world.save(world.t2w_of(world.t1w_of(0)), tmp_path / "moved.nii.gz", affine)
        other = replace(job, case=replace(job.case, images={**job.case.images, "T2w": path}))
        if fits:
            assert score_case(other)
        else:
            with pytest.raises(InputError, match="not on one grid"):
                score_case(other)

    def test_a_synthetic_scan_is_not_a_reference(self, job, world, tmp_path):
        from mrbridge.io import write

        volume = replace(_volume(world.t1w_of(0), world.AFFINE), synthetic=True)
        path = write(volume, tmp_path / "made.nii.gz")
        other = replace(job, case=replace(job.case, images={**job.case.images, "T2w": path}))
        with pytest.raises(InputError, match="synthetic"):
            score_case(other)


class TestBackground:
    """Zero must mean no signal: what has another background is brought there first."""

    @pytest.mark.parametrize(
        "scaled",
        [lambda x: x / x.max() * 2 - 1, lambda x: x + 1000, lambda x: x - 1024],
        ids=["-1 to 1", "1000 more", "1024 less"],
    )
    def test_a_constant_changes_nothing(self, job, world, scaled, tmp_path):
        t1w = world.t1w_of(0)
        images = {
            "T1w": world.save(scaled(t1w), tmp_path / "u1.nii.gz"),
            "T2w": world.save(scaled(world.t2w_of(t1w)), tmp_path / "u2.nii.gz"),
        }
        noise = 40 * np.random.default_rng(0).standard_normal(world.SHAPE)
        made = np.where(t1w > 0, world.t2w_of(t1w) + noise, 0)
        made_of = [
            world.save(x, tmp_path / f"{k}.nii.gz") for k, x in enumerate((made, scaled(made)))
        ]
        found = []
        for real in (job.case.images["T2w"], images["T2w"]):
            for synthetic in made_of:
                case = Case("a", "a", {"T2w": real}, synthetic=synthetic)
                found.append(score_case(Job(case, (Direction(None, "T2w"),), PLAIN))["to_T2w"])
        for other in found[1:]:
            for kind, values in found[0].scores["model"].items():
                assert other.scores["model"][kind] == pytest.approx(values, rel=1e-3)
            assert other.measured.values == pytest.approx(found[0].measured.values, rel=1e-3)

    def test_a_brain_of_mean_0_has_black_surroundings(self, job, world, tmp_path):
        inside = world.inside()

        def zscores(image):
            return np.where(inside, (image - image[inside].mean()) / image[inside].std(), 0)

        t2w = world.t2w_of(world.t1w_of(0))
        t2w[12, 10:18, 8:12] = 20  # the darkest voxels, as in vessels
        noise = 40 * np.random.default_rng(0).standard_normal(world.SHAPE)
        made = np.where(inside, np.maximum(t2w + noise, 5), 0)
        scores = []
        for name, change in (("raw", np.asarray), ("z", zscores)):
            real = world.save(change(t2w), tmp_path / f"{name}_r.nii.gz")
            synthetic = world.save(change(made), tmp_path / f"{name}_s.nii.gz")
            case = Case("a", "a", {"T2w": real}, synthetic=synthetic)
            jobs = Job(case, (Direction(None, "T2w"),), PLAIN)
            if name == "z":
                with pytest.warns(MrbridgeWarning, match="count as background"):
                    found = score_case(jobs)["to_T2w"]
            else:
                found = score_case(jobs)["to_T2w"]
            scores.append((found.voxels, found.scores["model"]["fit"]))
        assert scores[1][0] == pytest.approx(scores[0][0], rel=0.02)
        assert scores[1][1]["psnr"] == pytest.approx(scores[0][1]["psnr"], abs=0.5)
        assert scores[1][1]["ssim"] == pytest.approx(scores[0][1]["ssim"], abs=0.02)


class TestMask:
    def test_whole_image_counts_every_voxel(self, job, world):
        found = score_case(replace(job, settings=PLAIN.changed({"mask": "whole"})))
        assert found[THERE.key].voxels == np.prod(world.SHAPE)

    def test_foreground_is_found(self, job, world):
        voxels = score_case(job)[THERE.key].voxels
        assert voxels == pytest.approx(world.inside().sum(), rel=0.1)

    def test_a_mask_file_may_have_any_value(self, job, world, tmp_path):
        half = world.inside()
        half[:12] = False
        for value in (1, 255):
            path = world.save(half * value, tmp_path / f"mask{value}.nii.gz")
            masked = replace(job, case=replace(job.case, mask=path))
            assert score_case(masked)[THERE.key].voxels == half.sum()

    def test_a_missing_brain_mask_is_an_error(self, job):
        with pytest.raises(InputError, match="no brain mask"):
            score_case(replace(job, settings=PLAIN.changed({"mask": "brain"})))

    def test_a_mask_on_another_grid_is_refused(self, job, world, tmp_path):
        path = world.save(np.ones((4, 4, 4)), tmp_path / "mask.nii.gz")
        with pytest.raises(InputError, match="scan and mask are not on one grid"):
            score_case(replace(job, case=replace(job.case, mask=path)))

    def test_a_scan_is_not_a_mask(self, job, world, tmp_path):
        signed = np.where(world.inside(), -1, 0)  # 255 as a signed byte
        for image, why in ((world.t1w_of(0), "intensities of a scan"), (signed, "negative values")):
            path = world.save(image, tmp_path / "mask.nii.gz")
            with pytest.raises(InputError, match=f"is not a mask: it has.*{why}"):
                score_case(replace(job, case=replace(job.case, mask=path)))

    def test_an_empty_mask_is_refused(self, job, world, tmp_path):
        path = world.save(np.zeros(world.SHAPE), tmp_path / "mask.nii.gz")
        with pytest.raises(InputError, match="mask is empty"):
            score_case(replace(job, case=replace(job.case, mask=path)))


class TestMonotoneBaseline:
    def test_is_perfect_where_contrasts_are_monotone_functions(self, job, world, tmp_path):
        t1w = world.t1w_of(5)
        curved = np.where(t1w > 0, 2000 * np.exp(-t1w / 400), 0)
        images = {**job.case.images}
        images["T1w"] = world.save(t1w, tmp_path / "x.nii.gz")
        images["T2w"] = world.save(curved, tmp_path / "y.nii.gz")
        job = replace(job, case=replace(job.case, images=images))
        ((baselines, on),) = fit_baselines([job.case], [sample_case(job)[1]])
        found = score_case(replace(job, baselines=baselines))
        assert on == "itself"
        for one in found.values():
            assert one.scores["floor"]["fit"]["psnr"] > 40

    def test_a_falling_mapping_keeps_the_background_black(self, job):
        ((baselines, _),) = fit_baselines([job.case], [sample_case(job)[1]])
        assert baselines[THERE.key].outputs[0] > baselines[THERE.key].outputs[-1]
        baseline = score_case(replace(job, baselines=baselines, samples=3))[THERE.key].samples[
            "floor"
        ]
        assert (baseline[:, :2, :2] == 0).all()
        assert baseline[:, 14, 12].min() > 0

    def test_is_worse_than_a_model_that_uses_more_than_intensity(self, job):
        ((baselines, _),) = fit_baselines([job.case], [sample_case(job)[1]])
        for one in score_case(replace(job, baselines=baselines)).values():
            baseline, model, copy = (
                one.scores[m]["fit"]["psnr"] for m in ("floor", "model", "copy")
            )
            assert copy < baseline < 30 < model

    def test_is_fitted_on_other_subjects_only(self):
        cases = [Case(name, name[0], {}) for name in ("a1", "a2", "b")]
        curves = {"a1": 1.0, "a2": 2.0, "b": 3.0}
        x = np.linspace(0, 1, 50, dtype=np.float32)
        samples = [{THERE.key: (x, curves[case.name] * x)} for case in cases]
        fitted = fit_baselines(cases, samples)
        tops = [baselines[THERE.key].outputs[-1] for baselines, _ in fitted]
        assert tops == pytest.approx([3.0, 3.0, 1.5])
        assert [on for _, on in fitted] == ["others"] * 3
        assert fit_baselines(cases[:2], samples[:2])[0][1] == "itself"

    def test_samples_are_seeded_and_capped(self, job):
        some = [sample_case(replace(job, voxels=100))[1] for _ in range(2)]
        assert some[0][THERE.key][0].shape == (100,)
        np.testing.assert_array_equal(some[0][THERE.key], some[1][THERE.key])
        assert voxels_per_case(1) == voxels_per_case(10) == 50_000
        assert voxels_per_case(100) == 5_000
        assert voxels_per_case(10**6) == 1_000


class TestWithoutPair:
    def test_a_single_contrast_gives_samples_and_cycle_only(self, job):
        images = {"T1w": job.case.images["T1w"]}
        single = replace(
            job,
            case=replace(job.case, images=images),
            directions=(THERE,),
            settings=EvaluateSettings(),
            samples=4,
        )
        found = score_case(single)[THERE.key]
        assert found.scores == {}
        assert set(found.samples) == {"model", "copy"}
        assert found.samples["model"].shape == (4, 28, 24)
        assert found.cycle["cycle"]["fit"]["psnr"] > 80
