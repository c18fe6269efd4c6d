"""Lesions, tissues and uncertainty through the verb: files found, values in JSON, CSV and page."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest

from mrbridge.errors import InputError, MrbridgeWarning, SomeScansFailed
from mrbridge.evaluation import registration
from mrbridge.evaluation.evaluate import EvaluateSettings, evaluate, score
from mrbridge.evaluation.measures import catalogue
from mrbridge.io import write
from mrbridge.volume import Volume

QUICK = EvaluateSettings(cycle=False, shown_cases=0, wasserstein_slices=3)


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def spots(world):
    """Two lesions inside the head."""
    mask = np.zeros(world.SHAPE, bool)
    mask[8:11, 10:13, 8:11] = mask[15:18, 15:18, 10:13] = True
    return mask


@pytest.fixture
def with_masks(bids, world):
    """The dataset with brain masks of all, and lesion masks of the first two."""
    for number in (1, 2, 3):
        folder = bids / "derivatives" / "masks" / f"sub-0{number}" / "anat"
        world.save(world.inside(), folder / f"sub-0{number}_desc-brain_mask.nii.gz")
        if number < 3:
            world.save(spots(world), folder / f"sub-0{number}_label-lesion_mask.nii.gz")
    return bids


@pytest.fixture
def single(world, tmp_path):
    """A pair with two bright lesions in T2w, of which the synthetic T2w keeps one."""
    t1w = world.t1w_of(1)
    t2w = np.where(spots(world), 1500, world.t2w_of(t1w))
    made = t2w.copy()
    made[15:18, 15:18, 10:13] = world.t2w_of(t1w)[15:18, 15:18, 10:13]
    noise = 20 * np.random.default_rng(0).standard_normal(world.SHAPE)
    save = world.save
    return SimpleNamespace(
        source=save(t1w, tmp_path / "s" / "p_T1w.nii.gz"),
        real=save(t2w, tmp_path / "r" / "p_T2w.nii.gz"),
        synthetic=save(np.where(t1w > 0, made + noise, 0), tmp_path / "m" / "p_T2w.nii.gz"),
        lesions=save(spots(world), tmp_path / "l" / "p_lesions.nii.gz"),
        width=save(np.where(t1w > 0, 1.6449 * 20, 0), tmp_path / "m/p_desc-uncertainty_T2w.nii.gz"),
        out=tmp_path / "out",
    )


class TestPairs:
    def test_masks_of_derivatives_are_found_and_files_agree(self, with_masks, world, tmp_path):
        out = tmp_path / "out"
        result = evaluate(world.Knowing(20), with_masks, out=out, settings=QUICK)
        written = json.loads((out / "scores.json").read_text())
        table = {
            (row["case"], row["direction"], row["measure"]): float(row["value"])
            for row in rows_of(out / "measures.csv")
        }
        for case in written["cases"]:
            for direction, values in case["directions"].items():
                for key, value in values["measures"].items():
                    assert table[case["case"], direction, key] == pytest.approx(value, rel=1e-5)
        assert set(result.lesions) == {"T1w_to_T2w", "T2w_to_T1w"}
        per_case = result.lesions["T1w_to_T2w"]["all"]
        assert sum(cell["number"] for name, cell in per_case.items() if name != "invented") == 4
        lesions = rows_of(out / "lesions.csv")
        assert {row["case"] for row in lesions if row["outcome"] != "invented"} == {
            *("sub-01", "sub-02"),
        }
        assert written["measures"]["T1w_to_T2w"]["dice_white"]["n"] == 3
        assert written["limits_of_agreement"]["T1w_to_T2w"]["volume_bias_white_percent"]["n"] == 3
        assert {use["use"] for use in written["uses"]} >= {"tissue_volumes", "fine_detail"}

    def test_every_measure_is_explained_and_every_explained_one_can_be_shown(
        self, with_masks, world, tmp_path
    ):
        result = evaluate(world.Knowing(20), with_masks, out=tmp_path / "out", settings=QUICK)
        known = {measure["key"] for group in catalogue() for measure in group["measure"]}
        unexplained = set(result.measures["T1w_to_T2w"]) - known
        assert {key for key in unexplained if not key.startswith("volume_")} == set()
        page = result.report.read_text()
        assert page.index("may be used for") < page.index("Scores</h2>")
        for key in result.measures["T1w_to_T2w"].keys() & known:
            assert f"<code>{key}</code>" in page
        assert "Bland-Altman" in page

    def test_without_a_brain_and_lesions_only_detail_is_measured(self, bids, world, tmp_path):
        result = evaluate(world.Knowing(20), bids, out=tmp_path / "out", settings=QUICK)
        keys = set(result.measures["T1w_to_T2w"])
        assert {"sharpness", "power_ratio_75_100", "psnr_whole_picture"} <= keys
        assert not {key for key in keys if key.startswith(("dice", "lesions", "coverage"))}
        assert result.lesions == {}
        assert not (tmp_path / "out" / "lesions.csv").exists()
        uses = {use.use: use.answer for use in result.uses}
        assert uses["lesions"] == uses["tissue_volumes"] == uses["registration"] == "unknown"

    def test_a_folder_of_masks_may_lack_some_but_not_all(self, bids, world, tmp_path):
        world.save(spots(world), tmp_path / "masks" / "sub-02_lesions.nii.gz")
        result = evaluate(world.Knowing(20), bids, lesions=tmp_path / "masks", settings=QUICK)
        assert "No lesion mask matches sub-01, sub-03 (2 files)." in result.remarks
        lesions = [case.results["T1w_to_T2w"].measured.lesions for case in result.cases]
        assert [found is not None for found in lesions] == [False, True, False]
        world.save(spots(world), tmp_path / "other" / "sub-99_lesions.nii.gz")
        with pytest.raises(InputError, match="no lesion mask that matches a case"):
            evaluate(world.Knowing(20), bids, lesions=tmp_path / "other", settings=QUICK)

    def test_lesions_that_are_not_measured_are_counted(self, bids, world, tmp_path):
        mask = spots(world)
        mask[12, 4, 12] = mask[0, 0, 0] = mask[0, -1, -1] = True  # a speck, and two far outside
        mask[:2, :2, :2] = mask[:2, -2:, -2:] = True
        for number in (1, 2, 3):
            world.save(mask, tmp_path / "masks" / f"sub-0{number}_lesions.nii.gz")
        text = r"9 of 15 lesions in the masks are not measured: 3 smaller .* and 6 with nothing"
        with pytest.warns(MrbridgeWarning, match=text):
            result = evaluate(
                world.Knowing(20),
                bids,
                out=tmp_path / "out",
                lesions=tmp_path / "masks",
                settings=QUICK,
            )
        assert "9 of 15 lesions in the masks are not measured" in result.report.read_text()

    def test_small_lesions_are_left_out_without_a_warning(self, bids, world, tmp_path):
        mask = spots(world)
        mask[12, 4, 12] = True
        path = world.save(mask, tmp_path / "lesions.nii.gz")
        result = evaluate(world.Knowing(20), bids, lesions=path, settings=QUICK)
        assert any("not measured: 3 smaller than" in remark for remark in result.remarks)

    @pytest.mark.parametrize("shift", [0, 2, 1000])
    def test_a_brain_mask_that_was_found_fails_no_case(self, bids, world, shift):
        mask = world.inside() & (shift > 0)
        affine = world.AFFINE.copy()
        affine[2, 3] -= shift
        folder = bids / "derivatives/m/sub-01/anat"
        world.save(mask[:, :, :-1], folder / "sub-01_desc-brain_mask.nii.gz", affine)
        result = evaluate(world.Knowing(20), bids, settings=QUICK)
        assert ("dice_white" in result.measures["T1w_to_T2w"]) == (shift == 2)

    def test_a_lesion_mask_on_another_grid_fails_its_case(self, bids, world, tmp_path):
        for number in (1, 2, 3):
            mask = spots(world)[:, :, :-1] if number == 2 else spots(world)
            world.save(mask, tmp_path / "masks" / f"sub-0{number}_lesions.nii.gz")
        with pytest.raises(SomeScansFailed, match=r"sub-02: .*not on one grid"):
            evaluate(world.Knowing(20), bids, lesions=tmp_path / "masks", settings=QUICK)

    def test_a_model_that_knows_its_uncertainty_is_asked_for_it(
        self, certain_bundle, bids_scans, tmp_path
    ):
        result = evaluate(certain_bundle, bids_scans, settings=QUICK, device="cpu")
        for direction in ("T1w_to_T2w", "T2w_to_T1w"):
            assert 0 < result.measures[direction]["coverage_plain"]["mean"] < 1
            assert "auroc_source_gradient" in result.measures[direction]
            assert "uncertainty_map" in {use.use for use in result.uses}


class TestFiles:
    def test_kept_and_lost_with_the_source_and_the_map_next_to_the_synthetic_scan(self, single):
        result = score(
            single.real,
            single.synthetic,
            out=single.out,
            source=single.source,
            lesions=single.lesions,
            settings=QUICK.changed({"shown_cases": 1}),
        )
        counts = result.lesions["T1w_to_T2w"]["all"]
        assert (counts["kept"]["number"], counts["lost"]["number"]) == (1, 1)
        values = result.cases[0].results["T1w_to_T2w"].measured.values
        assert values["lesions_kept_share"] == 0.5
        assert values["coverage"] == pytest.approx(0.9, abs=0.03)
        assert 0.3 < values["coverage_lesions"] < 0.7  # the lost one lies outside
        assert "auroc_source_gradient" in values
        assert {"model", "floor", "copy"} <= set(result.summary["T1w_to_T2w"])
        names = {path.name for path in (single.out / "figures").iterdir()}
        assert {"p_T2w_T1w_to_T2w_lesions.png", "p_T2w_T1w_to_T2w_reliability.png"} <= names
        (kept,) = [row for row in rows_of(single.out / "lesions.csv") if row["outcome"] == "kept"]
        # Centre of the first lesion, voxel (9, 11, 9), by the affine of the files.
        assert [float(kept[f"{axis}_mm"]) for axis in "xyz"] == [12, 2, 3]

    def test_masks_of_probabilities(self, single, world):
        world.save(0.4 * spots(world), single.lesions)
        result = score(single.real, single.synthetic, lesions=single.lesions, settings=QUICK)
        assert result.measures["to_T2w"]["lesions"]["mean"] == 2

    def test_without_a_lesion_the_table_has_its_columns(self, single, world):
        world.save(np.zeros(world.SHAPE), single.lesions)
        score(single.real, single.synthetic, out=single.out, lesions=single.lesions, settings=QUICK)
        head, *rows = (single.out / "lesions.csv").read_text().splitlines()
        assert "outcome,visibility,volume_ml" in head
        assert not rows

    def test_what_covers_the_brain_is_not_a_lesion(self, single, world):
        world.save(~spots(world), single.lesions)
        with pytest.raises(InputError, match=r"covers \d+% of the image .*not a mask of lesions"):
            score(single.real, single.synthetic, lesions=single.lesions, settings=QUICK)

    def test_what_cannot_be_measured_is_left_out(self, single, world, tmp_path):
        world.save(500.0 * world.inside(), single.real)  # no detail to compare with
        mask = world.save(world.inside(), tmp_path / "mask.nii.gz")
        with pytest.warns(MrbridgeWarning, match="does not correlate"):
            result = score(single.real, single.synthetic, mask=mask, settings=QUICK)
        assert not {"sharpness", "power_ratio_75_100"} & result.measures["to_T2w"].keys()
        answers = {use.use: use.because for use in result.uses}
        assert answers["fine_detail"] == "not measured"

    def test_without_the_source_visibility_is_unknown(self, single):
        result = score(single.real, single.synthetic, lesions=single.lesions, settings=QUICK)
        assert set(result.lesions["to_T2w"]) == {"all", "unknown"}
        assert "floor" not in result.summary["to_T2w"]

    def test_a_map_with_half_the_width_covers_less(self, single, world):
        half = world.save(np.full(world.SHAPE, 0.5 * 1.6449 * 20), single.out / "u.nii.gz")
        result = score(single.real, single.synthetic, uncertainty=half, settings=QUICK)
        values = result.cases[0].results["to_T2w"].measured.values
        assert values["coverage"] == pytest.approx(0.59, abs=0.05)

    @pytest.mark.parametrize("value", [-1.0, 0.0])
    def test_a_map_without_positive_values_is_refused(self, value, single, world):
        bad = world.save(np.full(world.SHAPE, value), single.out / "u.nii.gz")
        with pytest.raises(InputError, match="not an uncertainty map"):
            score(single.real, single.synthetic, uncertainty=bad, settings=QUICK)

    def test_lesions_of_2d_images_are_refused(self, tmp_path):
        head = np.zeros((40, 36, 1), np.uint8)
        head[5:35, 5:30, 0] = np.random.default_rng(0).integers(50, 250, (30, 25))
        mask = np.where(head > 200, np.uint8(255), np.uint8(0))
        for name, image in (("one", head), ("other", head // 2), ("third", mask)):
            write(Volume(image, None), tmp_path / f"{name}.png")
        real, made, lesions = (tmp_path / f"{name}.png" for name in ("one", "other", "third"))
        with pytest.raises(InputError, match="no voxel size"):
            score(real, made, lesions=lesions, settings=QUICK)
        result = score(real, made, settings=QUICK)
        assert "sharpness" in result.cases[0].results["to_scan"].measured.values


class TestRegistrationError:
    @pytest.fixture
    def pair(self, world):
        target = Volume(world.t2w_of(world.t1w_of(1)), world.AFFINE)
        return target, Volume(world.t1w_of(1), world.AFFINE)

    @pytest.mark.parametrize("off_mm", [0.0, 2.0])
    def test_is_the_distance_from_the_known_place(self, pair, monkeypatch, off_mm):
        target, source = pair

        def found(moving, fixed, kind, seed):
            back = target.affine @ np.linalg.inv(moving.affine)
            back[0, 3] += off_mm if fixed is target else 0
            return SimpleNamespace(transform=back)

        monkeypatch.setattr(registration, "register", found)
        errors = registration.registration_errors(target, target, source, 0)
        assert errors["registration_error_mm"] == pytest.approx(off_mm, abs=1e-6)
        assert errors["registration_error_source_mm"] == pytest.approx(0, abs=1e-6)

    def test_a_registration_that_does_not_converge_is_infinitely_wrong(self, pair, monkeypatch):
        def fails(*_):
            raise InputError("registration did not converge")

        monkeypatch.setattr(registration, "register", fails)
        errors = registration.registration_errors(pair[0], pair[0], None, 0)
        assert errors == {"registration_error_mm": float("inf")}

    def test_the_displacement_is_rigid_and_about_the_centre(self):
        centre = np.array([10.0, -20.0, 30.0])
        matrix = registration.displacement(centre)
        assert np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3))
        shift = (matrix @ [*centre, 1])[:3] - centre
        assert shift == pytest.approx(registration.SHIFT_MM)

    def test_only_if_asked_for(self, single, monkeypatch):
        calls = []

        def counted(*arguments):
            calls.append(arguments)
            return {"registration_error_mm": 0.5, "registration_error_source_mm": 0.4}

        monkeypatch.setattr("mrbridge.evaluation.scoring.registration_errors", counted)
        plain = score(single.real, single.synthetic, settings=QUICK)
        assert not calls
        asked = QUICK.changed({"registration_error": True})
        result = score(single.real, single.synthetic, source=single.source, settings=asked)
        assert len(calls) == 1
        assert result.measures["T1w_to_T2w"]["registration_error_mm"]["mean"] == 0.5
        assert {use.use: use.answer for use in result.uses}["registration"] == "yes"
        assert {use.use: use.answer for use in plain.uses}["registration"] == "unknown"

    @pytest.mark.slow
    def test_of_a_simulated_head(self):
        from mrbridge.phantom.settings import PhantomSettings
        from mrbridge.phantom.subjects import simulate

        subject = simulate(PhantomSettings(spacing_mm=2.0), 0)
        errors = registration.registration_errors(subject.t2w, subject.t2w, subject.t1w, 0)
        assert errors["registration_error_mm"] < 0.2
        assert errors["registration_error_source_mm"] < 1.0
