"""The verb as a whole: what it writes, what it says, and what it does about faults."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from dataclasses import replace
from html import unescape

import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mrbridge.bundle import save_bundle
from mrbridge.errors import InputError, MrbridgeWarning, SettingsError, SomeScansFailed
from mrbridge.evaluation import evaluate as evaluate_module, result as result_module
from mrbridge.evaluation.evaluate import EvaluateSettings, evaluate, score
from mrbridge.io.ownership import FIGURE_MARK
from mrbridge.manifest import BundleManifest
from mrbridge.networks.build import build_generator
from mrbridge.networks.settings import Networks, UNetSettings
from mrbridge.preprocessing.intensity import IntensityNormalisation
from mrbridge.preprocessing.registration import Registration
from mrbridge.preprocessing.settings import PreprocessSettings
from mrbridge.viewer import is_built

QUICK = EvaluateSettings(cycle=False, shown_cases=0, wasserstein_slices=3)
DRAW = Figure.savefig

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture
def drawn(monkeypatch):
    """Figures as they are."""
    monkeypatch.setattr(Figure, "savefig", DRAW)


def lines_of(out):
    with open(out / "scores.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class TestPairs:
    @pytest.mark.usefixtures("drawn")
    def test_tables_json_and_figures_are_written_and_consistent(self, bids, world, tmp_path):
        out = tmp_path / "out"
        result = evaluate(world.Knowing(20), bids, out=out)
        lines, scores = lines_of(out), json.loads((out / "scores.json").read_text())
        assert len(lines) == 3 * 2 * 3 * 2
        assert result.mode == scores["mode"] == "pairs"
        assert scores["model_sha256"] == "ab" * 32
        for direction in ("T1w_to_T2w", "T2w_to_T1w"):
            values = [
                float(line["psnr"])
                for line in lines
                if (line["direction"], line["method"], line["kind"]) == (direction, "model", "fit")
            ]
            summary = scores["summary"][direction]["model"]["fit"]["psnr"]
            assert summary["mean"] == pytest.approx(np.mean(values), abs=1e-3)
            assert summary["std"] == pytest.approx(np.std(values, ddof=1), abs=1e-3)
            assert summary["n"] == 3
            assert scores["cycles"][direction]["cycle"]["fit"]["psnr"]["mean"] > 0
        assert {line["floor_fitted_on"] for line in lines if line["method"] == "floor"} == {
            "others"
        }
        names = {path.name for path in (out / "figures").iterdir()}
        assert {
            "sub-01_T1w_to_T2w_slices.png",
            "sub-03_T2w_to_T1w_by-slice.png",
            "all_T1w_to_T2w_joint-histogram.png",
            "all_T2w_to_T1w_by-case.png",
        } <= names
        assert not [name for name in names if name.startswith(".")]

    def test_verdicts_of_a_good_and_a_bad_model(self, bids, world, tmp_path):
        good = evaluate(world.Knowing(5), bids, out=tmp_path / "a", settings=QUICK)
        assert [verdict.outcome for verdict in good.verdicts] == ["better", "better"]
        assert "3 of 3" in good.verdicts[0].text
        bad = evaluate(world.Copying(), bids, out=tmp_path / "b", settings=QUICK)
        assert [verdict.outcome for verdict in bad.verdicts] == ["worse", "worse"]
        assert "Warning: not better than the monotone baseline" in bad.report.read_text()
        assert "Warning" not in good.report.read_text()

    def test_cases_that_the_model_was_trained_on(self, bids, world):
        model = world.Knowing(5)
        scan = (bids / "sub-02/anat/sub-02_T2w.nii.gz").read_bytes()
        model.bundle.manifest.trained_on = (hashlib.sha256(scan).hexdigest()[:16],)
        message = r"trained on scans of 1 of the 3 cases \(sub-02\): their scores are inflated"
        with pytest.warns(MrbridgeWarning, match=message):
            result = evaluate(model, bids, settings=QUICK)
        assert [one for one in result.remarks if "inflated" in one]

    def test_scans_of_two_subjects_that_were_swapped(self, bids, world):
        one, other = (bids / f"sub-0{n}/anat/sub-0{n}_T2w.nii.gz" for n in (1, 2))
        one.rename(bids / "third.nii.gz")
        other.rename(one)
        (bids / "third.nii.gz").rename(other)
        with pytest.warns(MrbridgeWarning, match=r"In 2 cases \(sub-01, sub-02\), the two"):
            evaluate(world.Copying(), bids, settings=QUICK)

    def test_infinite_scores_are_null_in_json(self, bids, world, tmp_path):
        scan = bids / "sub-01/anat/sub-01_T2w.nii.gz"
        world.save(world.t2w_of(world.t1w_of(1)), tmp_path / "same.nii.gz")
        with pytest.warns(MrbridgeWarning, match="is identical to the real one"):
            result = score(
                real=scan, synthetic=tmp_path / "same.nii.gz", out=tmp_path / "out", settings=QUICK
            )
        psnr = result.summary["to_T2w"]["model"]["plain"]["psnr"]
        assert psnr == {"mean": None, "std": None, "n": 1}
        text = (tmp_path / "out" / "scores.json").read_text()
        assert "Infinity" not in text
        assert "NaN" not in text
        assert "∞" in result.report.read_text()

    def test_the_baseline_of_a_single_subject_is_fitted_to_itself(self, world, tmp_path):
        world.save_subject(tmp_path / "data", "01", 1)
        result = evaluate(world.Knowing(20), tmp_path / "data", out=tmp_path / "o", settings=QUICK)
        assert result.cases[0].baseline_on == "itself"
        assert "inflates" in result.verdicts[0].text
        assert result.summary["T1w_to_T2w"]["model"]["fit"]["psnr"]["std"] is None
        assert lines_of(tmp_path / "o")[2]["floor_fitted_on"] == "itself"

    def test_brain_masks_of_the_dataset(self, bids, world, tmp_path):
        half = world.inside()
        half[:12] = False
        for number in (1, 2, 3):
            folder = bids / "derivatives" / "phantom" / f"sub-0{number}" / "anat"
            world.save(half, folder / f"sub-0{number}_desc-brain_mask.nii.gz")
        brain = evaluate(
            world.Knowing(), bids, out=tmp_path / "a", settings=QUICK.changed({"mask": "brain"})
        )
        assert brain.cases[0].results["T1w_to_T2w"].voxels == half.sum()
        unasked = evaluate(world.Knowing(), bids, out=tmp_path / "b", settings=QUICK)
        assert unasked.cases[0].results["T1w_to_T2w"].voxels > half.sum()

    def test_a_model_of_skull_stripped_scans_gets_brain_masks(self, bids, world, tmp_path):
        for number in (1, 2, 3):
            folder = bids / f"sub-0{number}" / "anat"
            world.save(world.inside(), folder / f"sub-0{number}_desc-brain_mask.nii.gz")
        seen = []

        class Masked(world.Knowing):  # type: ignore[name-defined]
            def translate(self, volume, to, *, mask=None):
                seen.append(mask.voxels.sum())
                return super().translate(volume, to)

        model = Masked()
        model.bundle.manifest.standard = PreprocessSettings(brain="mask")
        settings = QUICK.changed({"cycle": True})
        result = evaluate(model, bids, out=tmp_path / "out", settings=settings)
        assert len(result.cases) == 3
        assert len(seen) == 3 * 2 * 3  # there, back, and back with noise
        assert set(seen) == {world.inside().sum()}

    def test_only_figures_of_an_earlier_evaluation_are_removed(self, bids, world, tmp_path):
        old = tmp_path / "out" / "figures" / "sub-99_T1w_to_T2w_slices.png"
        kept = old.with_name("mine.png")
        theirs = old.with_name("my_by-case.png")
        old.parent.mkdir(parents=True)
        info = PngInfo()
        info.add_text(*next(iter(FIGURE_MARK.items())))
        Image.new("L", (4, 4)).save(old, pnginfo=info)
        Image.new("L", (4, 4)).save(theirs)
        kept.touch()
        evaluate(world.Knowing(), bids, out=tmp_path / "out", settings=QUICK)
        assert not old.exists()
        assert theirs.exists()
        assert kept.exists()


class TestModel:
    @pytest.fixture
    def model(self, tmp_path):
        """The bundle of a tiny, untrained model."""
        ranges = {contrast: IntensityNormalisation(low=0, high=1000) for contrast in ("T1w", "T2w")}
        generator = UNetSettings(levels=3, features=4)
        manifest = BundleManifest(
            source="T1w",
            target="T2w",
            preset="test",
            networks=Networks(generator=generator, image_size=64),
            standard=PreprocessSettings(spacing_mm=2.0),
            typical=ranges,
            pictures=False,
            trained={},
            scores={},
        )
        rng = torch.Generator().manual_seed(0)
        weights = {
            f"{name}.{key}": value
            for name in ("to_target", "to_source")
            for key, value in build_generator(generator, 64, rng).state_dict().items()
        }
        return save_bundle(manifest, weights, tmp_path / "bundle")

    def test_an_untrained_model_is_worse_than_the_baseline_with_any_number_of_workers(
        self, bids, model, tmp_path
    ):
        results = [
            evaluate(str(model.path), bids, out=tmp_path / "1", settings=QUICK),
            evaluate(str(model.path), bids, out=tmp_path / "2", settings=QUICK, workers=2),
            evaluate(replace(model, path=None), bids, settings=QUICK, workers=2),
        ]
        assert {result.model_sha256 for result in results} == {model.hash}
        assert [verdict.outcome for verdict in results[0].verdicts] == ["worse", "worse"]
        for result in results[1:]:
            # One thread or several round differently.
            for key, methods in result.summary.items():
                expected = results[0].summary[key]["model"]["fit"]["psnr"]["mean"]
                assert methods["model"]["fit"]["psnr"]["mean"] == pytest.approx(expected, abs=1e-2)


class TestFaults:
    def test_a_pair_on_two_grids_fails_and_the_others_are_scored(self, bids, world, tmp_path):
        world.save(np.ones((24, 28, 21)), bids / "sub-02/anat/sub-02_T2w.nii.gz")
        never = QUICK.changed({"registration": "off"})
        with pytest.raises(SomeScansFailed, match=r"sub-02: .*not on one grid") as caught:
            evaluate(world.Knowing(5), bids, out=tmp_path / "out", settings=never)
        assert caught.value.exit_code == 1
        assert [scored.case.name for scored in caught.value.result.cases] == ["sub-01", "sub-03"]
        scores = json.loads((tmp_path / "out" / "scores.json").read_text())
        assert [case["case"] for case in scores["cases"]] == ["sub-01", "sub-03"]
        assert [failure["name"] for failure in scores["failures"]] == ["sub-02"]
        assert "sub-02" in (tmp_path / "out" / "report.html").read_text()

    def test_a_pair_that_cannot_be_registered_fails_and_the_others_are_scored(
        self, bids, world, tmp_path
    ):
        world.save(np.ones((24, 28, 21)), bids / "sub-02/anat/sub-02_T2w.nii.gz")
        with pytest.raises(
            SomeScansFailed, match=r"sub-02: T2w and T1w could not be registered: shows nothing"
        ):
            evaluate(world.Knowing(5), bids, out=tmp_path / "out", settings=QUICK)
        scores = json.loads((tmp_path / "out" / "scores.json").read_text())
        assert [case["case"] for case in scores["cases"]] == ["sub-01", "sub-03"]
        assert [case["registration"] for case in scores["cases"]] == [None, None]
        assert "Registration</h2>" not in (tmp_path / "out" / "report.html").read_text()

    def test_a_damaged_file_fails_and_the_others_are_scored(self, bids, world, tmp_path):
        path = bids / "sub-01/anat/sub-01_T1w.nii.gz"
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(SomeScansFailed, match="sub-01"):
            evaluate(world.Knowing(5), bids, out=tmp_path / "out", settings=QUICK)
        assert len(lines_of(tmp_path / "out")) == 2 * 2 * 3 * 2

    def test_no_scored_case_is_an_error(self, world, tmp_path):
        world.save_subject(tmp_path / "data", "01", 1)
        world.save(np.ones((4, 4, 4)), tmp_path / "data/sub-01/anat/sub-01_T2w.nii.gz")
        with pytest.raises(InputError, match="of 1 case, none could be scored"):
            evaluate(world.Knowing(), tmp_path / "data", out=tmp_path / "out")
        assert not (tmp_path / "out" / "report.html").exists()

    def test_a_missing_mask_is_a_failure(self, bids, world, tmp_path):
        for number in (1, 2):
            world.save(world.inside(), tmp_path / "masks" / f"sub-0{number}_mask.nii.gz")
        with pytest.raises(SomeScansFailed, match="sub-03: no mask"):
            evaluate(
                world.Knowing(), bids, mask=tmp_path / "masks", out=tmp_path / "o", settings=QUICK
            )

    def test_a_note_on_a_scan_that_is_read_several_times_is_shown_once(self, world, tmp_path):
        world.save_subject(tmp_path / "bids", "01", 1)
        path = tmp_path / "bids" / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
        damaged = world.t1w_of(1)
        damaged[0, 0, 0] = np.nan
        nib.Nifti1Image(damaged, world.AFFINE).to_filename(path)
        with pytest.warns(MrbridgeWarning, match="1 voxel was NaN") as caught:
            evaluate(world.Knowing(), tmp_path / "bids", tmp_path / "out")
        assert sum("1 voxel was NaN" in str(one.message) for one in caught) == 1


class TestRegistered:
    @pytest.fixture
    def moved(self, bids, world, monkeypatch):
        """The T2w scan of sub-02 lies 4 mm elsewhere, and that is found out."""
        affine = world.AFFINE.copy()
        affine[0, 3] += 4
        t2w = world.t2w_of(world.t1w_of(2))
        world.save(t2w, bids / "sub-02/anat/sub-02_T2w.nii.gz", affine)
        back = np.eye(4)
        back[0, 3] = -4
        found = Registration(back, "rigid", 0.4, 0.9, 4.0, 0.125, 8, 9, 1.0)
        monkeypatch.setattr("mrbridge.evaluation.registration.register", lambda *_: found)
        return bids

    def test_registration_in_table_json_and_report(self, moved, world, tmp_path):
        out = tmp_path / "out"
        result = evaluate(world.Knowing(5), moved, out=out, settings=QUICK)
        registered = {
            line["case"]: (line["registered"], line["displacement_mm"], line["residual_mm"])
            for line in lines_of(out)
        }
        assert registered["sub-01"] == registered["sub-03"] == ("no", "", "")
        assert registered["sub-02"] == ("rigid", "4.000", "0.125")
        cases = {one["case"]: one for one in json.loads((out / "scores.json").read_text())["cases"]}
        assert cases["sub-01"]["registration"] is None
        assert cases["sub-02"]["registration"]["scored_on_grid_of"] == "T1w"
        assert cases["sub-02"]["registration"]["moving_to_fixed_ras_mm"][0] == [1, 0, 0, -4]
        page = result.report.read_text()
        assert "1 of 3 pairs were not on one grid and were registered" in page
        assert "0.400 → 0.900" in page
        assert [verdict.outcome for verdict in result.verdicts] == ["better", "better"]

    def test_a_registered_pair_scores_like_one_on_one_grid(self, moved, world, tmp_path):
        result = evaluate(world.Knowing(5), moved, out=tmp_path / "out", settings=QUICK)
        here, back = (
            one.results["T1w_to_T2w"].scores["model"]["fit"]["psnr"] for one in result.cases[:2]
        )
        assert back == pytest.approx(here, abs=1)


class TestUnpaired:
    def test_measures_that_need_no_pairs(self, world, tmp_path):
        root = tmp_path / "data"
        for number in (1, 2, 3, 4):
            contrast = "T1w" if number % 2 else "T2w"
            t1w = world.t1w_of(number)
            voxels = t1w if contrast == "T1w" else world.t2w_of(t1w)
            world.save(voxels, root / f"sub-{number}/anat/sub-{number}_{contrast}.nii.gz")
        result = evaluate(world.Knowing(5), root, out=tmp_path / "out")
        assert result.mode == "unpaired"
        assert result.summary == {}
        assert [verdict.outcome for verdict in result.verdicts] == ["unknown", "unknown"]
        assert set(result.wasserstein["T1w_to_T2w"]) == {"model", "copy", "real"}
        assert result.cycles["T2w_to_T1w"]["cycle"]["fit"]["psnr"]["n"] == 2
        assert "No subject has scans of both contrasts" in result.report.read_text()

    def test_realistic_images_have_a_smaller_wasserstein_distance_than_the_input(
        self, bids, world, tmp_path
    ):
        result = evaluate(world.Knowing(), bids, out=tmp_path / "out", settings=QUICK)
        for distances in result.wasserstein.values():
            assert distances["model"] == pytest.approx(0, abs=0.1)
            assert distances["copy"] > 5


class TestFiles:
    @pytest.fixture
    def synthetic_images(self, bids, world, tmp_path):
        """What the knowing translator would write of the T1w scans."""
        from mrbridge.io import read, write

        for number in (1, 2, 3):
            scan = read(bids / f"sub-0{number}/anat/sub-0{number}_T1w.nii.gz")
            made = world.Knowing(20).translate(scan, "T2w")
            write(made, tmp_path / "made" / f"sub-0{number}_desc-synth_T2w.nii.gz")
        return tmp_path / "made"

    def test_scores_are_those_of_the_model_on_pairs(self, bids, synthetic_images, world, tmp_path):
        files = score(real=bids, synthetic=synthetic_images, out=tmp_path / "a", settings=QUICK)
        pairs = evaluate(world.Knowing(20), bids, out=tmp_path / "b", settings=QUICK)
        one, other = files.summary["to_T2w"]["model"], pairs.summary["T1w_to_T2w"]["model"]
        for kind in ("fit", "plain"):
            for measure in ("psnr", "ssim", "mae"):
                assert one[kind][measure]["mean"] == pytest.approx(other[kind][measure]["mean"])
        assert set(files.summary["to_T2w"]) == {"model"}

    def test_images_of_two_subjects_that_were_swapped(self, world, tmp_path):
        for number, other in ((1, 3), (2, 2), (3, 1)):
            world.save(world.t1w_of(number), tmp_path / f"real/sub-0{number}_T1w.nii.gz")
            made = np.sqrt(300 + world.t1w_of(other)) * world.inside()
            world.save(made, tmp_path / f"made/sub-0{number}_T1w.nii.gz")
        message = r"In 2 cases \(sub-01, sub-03\), the two images do not show the same anatomy"
        with pytest.warns(MrbridgeWarning, match=message):
            result = score(tmp_path / "real", tmp_path / "made", settings=QUICK)
        assert [one for one in result.remarks if "two people" in one]

    @pytest.mark.parametrize("change", [np.zeros_like, np.ones_like, np.negative])
    def test_an_image_that_does_not_correlate(self, change, bids, world, tmp_path):
        made = world.save(change(world.t2w_of(world.t1w_of(1))), tmp_path / "made.nii.gz")
        with pytest.warns(MrbridgeWarning, match="In 1 case .* does not correlate"):
            score(bids / "sub-01/anat/sub-01_T2w.nii.gz", made, settings=QUICK)

    def test_a_mask_of_air(self, bids, synthetic_images, world, tmp_path):
        mask = world.save(np.indices(world.SHAPE)[0] < 8, tmp_path / "m.nii.gz")
        with pytest.warns(MrbridgeWarning, match="most of the mask is outside the head"):
            score(
                bids / "sub-01/anat/sub-01_T2w.nii.gz",
                synthetic_images / "sub-01_desc-synth_T2w.nii.gz",
                mask=mask,
                settings=QUICK,
            )

    def test_a_source_of_another_subject(self, bids, synthetic_images, tmp_path):
        for number, other in ((1, 1), (2, 3), (3, 2)):
            source = bids / f"sub-0{other}/anat/sub-0{other}_T1w.nii.gz"
            (tmp_path / "sources").mkdir(exist_ok=True)
            (tmp_path / f"sources/sub-0{number}_T1w.nii.gz").write_bytes(source.read_bytes())
        how = {"source": tmp_path / "sources", "settings": QUICK}
        message = r"In 2 cases \(sub-02, sub-03\), the source and the synthetic image do not"
        with pytest.warns(MrbridgeWarning, match=message) as caught:
            result = score(bids, synthetic_images, **how)
        assert len(caught) == 1
        assert [one for one in result.remarks if "unless the source" in one]

    def test_single_files_and_a_mask(self, bids, synthetic_images, world, tmp_path):
        half = world.inside()
        half[:12] = False
        result = score(
            real=bids / "sub-01/anat/sub-01_T2w.nii.gz",
            synthetic=synthetic_images / "sub-01_desc-synth_T2w.nii.gz",
            mask=world.save(half, tmp_path / "m.nii.gz"),
            out=tmp_path / "out",
        )
        assert result.cases[0].results["to_T2w"].voxels == half.sum()
        assert result.masks == "given"
        assert "inside the masks that were provided" in result.report.read_text()


class TestPictures:
    def test_each_2d_image_is_a_case_with_a_baseline_from_the_others(self, world, tmp_path):
        from mrbridge.io import write
        from mrbridge.volume import Volume

        rng = np.random.default_rng(0)
        for number in (1, 2, 10):
            x = np.zeros((40, 36, 1))
            x[5:35, 5:30, 0] = rng.integers(50, 250, (30, 25))
            for contrast, image in (("T1", x), ("T2", np.where(x > 0, 300 - x, 0))):
                path = tmp_path / "data" / contrast / f"Image #{number}.png"
                write(Volume(image.astype(np.uint8), None), path)
        one_shown = QUICK.changed({"shown_cases": 1})
        result = evaluate(
            world.Copying(), tmp_path / "data", out=tmp_path / "o", settings=one_shown
        )
        assert [one.case.name for one in result.cases] == ["Image #1", "Image #2", "Image #10"]
        assert {one.baseline_on for one in result.cases} == {"others"}
        summary = result.summary["T1w_to_T2w"]
        assert summary["floor"]["fit"]["psnr"]["mean"] > 30
        assert summary["model"]["fit"]["psnr"]["mean"] < 20
        assert "paired by their names" in result.report.read_text()
        drawn = sorted(path.name for path in (tmp_path / "o" / "figures").glob("Image*"))
        assert drawn == [f"Image-1_{one}_slices.png" for one in ("T1w_to_T2w", "T2w_to_T1w")]
        assert "Images of the first 1" in result.report.read_text()


class TestReport:
    def test_is_self_contained_and_says_what_it_must(self, bids, world, tmp_path):
        some = EvaluateSettings(shown_cases=2, wasserstein_slices=3)
        result = evaluate(world.Knowing(20), bids, out=tmp_path / "out", settings=some)
        page = result.report.read_text()
        assert page.count("<script") == (1 if is_built() else 0), "the one that opens the viewer"
        assert not re.search(r"https?://|<link|url\(|@import", page)
        sources = re.findall(r'src="([^"]{0,30})', page)
        assert len(sources) == 2 * (2 + 2 * 2)
        assert all(source.startswith("data:image/webp;base64,") for source in sources)
        for words in (
            "for research, not for diagnosis",
            "the model beats the monotone baseline by",
            "ab" * 32,
            "mrbridge 0.",
            "Sliced Wasserstein",
            "with noise",
            "Limitations",
        ):
            assert words in page
        assert str(tmp_path) not in page
        assert str(tmp_path) not in (tmp_path / "out" / "scores.json").read_text()

    def test_the_worst_and_the_median_case_are_embedded(self, bids, world, monkeypatch, tmp_path):
        monkeypatch.setattr(result_module, "packed_viewer", lambda: "eA==")
        settings = EvaluateSettings(cycle=False, shown_cases=1, wasserstein_slices=3)
        found = []
        for limit in (20, 1):  # the images of all cases are kept, or those of two made again
            monkeypatch.setattr(evaluate_module, "_EMBEDDED", limit)
            out = tmp_path / str(limit)
            result = evaluate(world.Knowing(20), bids, out=out, settings=settings)
            html = result.report.read_text()
            layers = re.findall(r'data-layers="([^"]*)"', html)
            titles = re.findall(r'class="look"[^>]*>Look at (the .*?)</button>', html)
            found.append((titles, layers))
        assert found[0] == found[1]
        titles, layers = found[0]
        assert len(titles) == 4
        for direction in ("T1w → T2w", "T2w → T1w"):
            ranked = sorted(
                result.cases,
                key=lambda one: one.results[direction.replace(" → ", "_to_")].scores["model"][
                    "fit"
                ]["ssim"],
            )
            worst, median = ranked[0], ranked[len(ranked) // 2]
            assert f"the worst case, {direction}: {worst.case.name}" in titles
            assert f"the median case, {direction}: {median.case.name}" in titles
        entries = json.loads(unescape(layers[0]))
        assert [one["role"] for one in entries] == ["source", "synthetic", "truth", "difference"]
        assert [one["synthetic"] for one in entries] == [False, True, False, True]

    def test_names_cannot_become_markup(self, world, tmp_path):
        (tmp_path / "data").mkdir()
        t1w = world.t1w_of(1)
        world.save(t1w, tmp_path / "data/a.nii.gz")
        world.save(world.t2w_of(t1w), tmp_path / "data/b.nii.gz")
        table = tmp_path / "data" / "pairs.csv"
        evil = "<b>x</b>/../y"
        table.write_text(
            f"subject,session,contrast,path\n{evil},,T1w,a.nii.gz\n{evil},,T2w,b.nii.gz\n"
        )
        result = evaluate(world.Knowing(9), table, out=tmp_path / "out", settings=QUICK)
        for html in (result.report.read_text(), result.as_html()):
            assert "<b>x" not in html
            assert "&lt;b&gt;x" in html
        assert all(
            p.parent == tmp_path / "out" / "figures" for p in (tmp_path / "out").rglob("*.png")
        )


def test_other_contrasts_than_the_first_two(tiny_bundle, bids_scans):
    settings = EvaluateSettings(contrasts=("T2w", "T1w"), cycle=False, tissues=False)
    result = evaluate(tiny_bundle, bids_scans, settings=settings, device="cpu")
    assert [one.key for one in result.directions] == ["T2w_to_T1w", "T1w_to_T2w"]
    flair = EvaluateSettings(contrasts=("T2w", "FLAIR"))
    with pytest.raises(SettingsError, match="not FLAIR"):
        evaluate(tiny_bundle, bids_scans, settings=flair, device="cpu")
    with pytest.raises(SettingsError, match="two contrasts"):
        EvaluateSettings.build({"contrasts": ("T2w",)})
