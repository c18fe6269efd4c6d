"""Which true scan belongs to which other scan, synthesis and mask."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.studies import write_series

from mrbridge.errors import InputError, MrbridgeWarning
from mrbridge.evaluation.cases import Case, find_pairs, find_synthetic
from mrbridge.evaluation.partners import partner, with_files, with_found_files


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def pairs_of(root: Path) -> dict[str, dict[str, str]]:
    found = find_pairs(root, "T1w", "T2w")
    return {
        case.name: {contrast: path.name for contrast, path in case.images.items()}
        for case in found.cases
    }


class TestPairs:
    def test_bids_subjects_and_sessions(self, tmp_path):
        root = touch(
            tmp_path,
            "sub-01/anat/sub-01_T1w.nii.gz",
            "sub-01/anat/sub-01_T2w.nii.gz",
            "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz",
            "sub-02/ses-a/anat/sub-02_ses-a_T2w.nii.gz",
            "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii.gz",
            "sub-03/anat/sub-03_T2w.nii.gz",
        )
        assert list(pairs_of(root)) == ["sub-01", "sub-02_ses-a"]
        found = find_pairs(root, "T1w", "T2w")
        assert [case.name for case in found.singles] == ["sub-02_ses-b", "sub-03"]
        assert [case.subject for case in found.cases] == ["sub-01", "sub-02"]
        assert found.remarks == []

    def test_nested_folders(self, tmp_path):
        root = touch(tmp_path, *(f"patient0{k}/T{c}.nii.gz" for k in (7, 8) for c in (1, 2)))
        assert list(pairs_of(root)) == ["patient07", "patient08"]

    def test_repeated_runs_give_one_pair(self, tmp_path):
        names = ("run-1_T1w", "run-2_T1w", "T2w")
        root = touch(tmp_path, *(f"sub-01/anat/sub-01_{name}.nii.gz" for name in names))
        assert pairs_of(root) == {
            "sub-01": {"T1w": "sub-01_run-1_T1w.nii.gz", "T2w": "sub-01_T2w.nii.gz"}
        }
        (left_out,) = find_pairs(root, "T1w", "T2w").left_out
        assert left_out[0] == "sub-01_run-2_T1w.nii.gz"

    def test_the_raw_scan_of_a_session_is_paired(self, tmp_path):
        names = ("acq-spine_T1w", "T1w", "desc-brain_T1w", "T2w")
        root = touch(tmp_path, *(f"sub-01/anat/sub-01_{name}.nii.gz" for name in names))
        assert pairs_of(root) == {
            "sub-01": {"T1w": "sub-01_T1w.nii.gz", "T2w": "sub-01_T2w.nii.gz"}
        }

    def test_a_mask_that_is_not_fetched_is_not_used(self, tmp_path):
        root = touch(tmp_path, *(f"sub-01/anat/sub-01_T{k}w.nii.gz" for k in (1, 2)))
        mask = root / "derivatives/x/sub-01/anat/sub-01_desc-brain_mask.nii.gz"
        mask.parent.mkdir(parents=True)
        mask.symlink_to(".git/annex/objects/k")
        with pytest.warns(
            MrbridgeWarning, match=r"brain_mask\.nii\.gz: is not fetched.*datalad get"
        ):
            (case,) = find_pairs(root, "T1w", "T2w").cases
        assert case.mask is None

    def test_runs_of_both_contrasts_are_paired_by_run(self, tmp_path):
        names = ("run-1_T1w", "run-1_T2w", "run-2_T1w", "run-2_T2w")
        root = touch(tmp_path, *(f"sub-01/anat/sub-01_{name}.nii.gz" for name in names))
        found = find_pairs(root, "T1w", "T2w").cases
        assert len({case.name for case in found}) == 2
        for case in found:
            runs = {path.name.split("_")[1] for path in case.images.values()}
            assert len(runs) == 1

    def test_2d_images_are_paired_by_name_with_a_remark(self, tmp_path):
        root = touch(tmp_path, *(f"T{c}/slice {k}.png" for c in (1, 2) for k in (9, 10)))
        touch(tmp_path, "T1/slice 11.png")
        found = find_pairs(root, "T1w", "T2w")
        assert [case.name for case in found.cases] == ["slice 9", "slice 10"]
        assert [case.name for case in found.singles] == ["slice 11"]
        assert "paired by their names" in found.remarks[0]

    def test_a_table_pairs_what_names_cannot(self, tmp_path):
        touch(tmp_path, "TrainT1/Image #10.png", "TrainT2/Image #70.png")
        table = tmp_path / "pairs.csv"
        table.write_text(
            "subject,session,contrast,path\n"
            "k10,,T1w,TrainT1/Image #10.png\nk10,,T2w,TrainT2/Image #70.png\n"
        )
        assert pairs_of(table) == {"k10": {"T1w": "Image #10.png", "T2w": "Image #70.png"}}
        assert find_pairs(table, "T1w", "T2w").remarks == []

    @pytest.mark.parametrize(
        "mask",
        [
            "anat/sub-01_ses-a_space-MNI152NLin2009cAsym_res-2_desc-brain_mask.nii.gz",
            "func/sub-01_ses-a_task-rest_space-T1w_desc-brain_mask.nii.gz",
            "dwi/sub-01_ses-a_desc-brain_mask.nii.gz",
        ],
    )
    def test_brain_masks_on_other_grids_are_not(self, tmp_path, mask):
        names = [f"sub-01/ses-a/anat/sub-01_ses-a_{name}.nii.gz" for name in ("T1w", "T2w")]
        root = touch(tmp_path, *names, f"derivatives/fmriprep/sub-01/ses-a/{mask}")
        (case,) = find_pairs(root, "T1w", "T2w").cases
        assert case.mask is None

    def test_brain_masks_of_derivatives_are_used(self, tmp_path):
        mask = "derivatives/tool/sub-01/anat/sub-01_desc-brain_mask.nii.gz"
        names = ("sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_T2w.nii.gz", mask)
        (case,) = find_pairs(touch(tmp_path, *names), "T1w", "T2w").cases
        assert case.mask == tmp_path / mask

    def test_no_scans(self, tmp_path):
        with pytest.raises(InputError, match="no T1w and no T2w"):
            find_pairs(touch(tmp_path, "notes.md"), "T1w", "T2w")


class TestSyntheses:
    def test_two_files_need_no_names(self, tmp_path):
        touch(tmp_path, "a/anything.nii.gz", "b/else.nii.gz")
        found = find_synthetic(tmp_path / "a/anything.nii.gz", tmp_path / "b/else.nii.gz")
        assert [(c.name, c.synthetic.name) for c in found.cases] == [("anything", "else.nii.gz")]

    def test_a_real_scan_whose_name_says_that_it_is_synthetic(self, tmp_path):
        touch(tmp_path, "real/a_fake_T2w.nii.gz", "made/a_T2w.nii.gz")
        fake = tmp_path / "real/a_fake_T2w.nii.gz"
        with pytest.raises(InputError, match="is synthetic, by 'fake' in its name"):
            find_synthetic(fake, tmp_path / "made/a_T2w.nii.gz")
        with pytest.raises(InputError, match="no synthetic image that matches"):
            find_synthetic(tmp_path / "real", tmp_path / "made")
        assert find_synthetic(fake, tmp_path / "made/a_T2w.nii.gz", force=True).cases

    def test_the_real_scan_is_not_its_own_synthetic_image(self, tmp_path):
        touch(tmp_path, "a_T2w.nii.gz", "b_T2w.nii.gz")
        scan, link = tmp_path / "a_T2w.nii.gz", tmp_path / "link.nii.gz"
        link.symlink_to(scan)
        for synthetic in (scan, link):
            with pytest.raises(InputError, match="is the real scan itself"):
                find_synthetic(scan, synthetic)
        with pytest.raises(InputError, match="no synthetic image"):
            find_synthetic(scan, tmp_path)

    def test_linked_folders_are_followed(self, tmp_path):
        touch(tmp_path, "disk/T2w.nii.gz", "real/p1/T2w.nii.gz", "fake/p1/T2w.nii.gz")
        for folder in ("real", "fake"):
            (tmp_path / folder / "p2").symlink_to(tmp_path / "disk")
            (tmp_path / folder / "up").symlink_to(tmp_path / folder)
        (tmp_path / "fake/p2").unlink()
        touch(tmp_path, "fake/p2/T2w.nii.gz")
        found = find_synthetic(tmp_path / "real", tmp_path / "fake")
        assert [case.name for case in found.cases] == ["p1", "p2"]

    def test_equal_file_names(self, tmp_path):
        touch(tmp_path, "real/x1.png", "real/x2.png", "fake/x2.png", "fake/x3.png")
        found = find_synthetic(tmp_path / "real", tmp_path / "fake")
        assert [case.name for case in found.cases] == ["x2"]
        assert found.left_out == [("x3.png", "matches no real scan, or more than one")]

    def test_bids_derivatives_inside_the_data_set(self, tmp_path):
        root = touch(
            tmp_path,
            *(f"sub-0{k}/anat/sub-0{k}_T{c}w.nii.gz" for k in (1, 2) for c in (1, 2)),
            *(f"derivatives/m/sub-0{k}/anat/sub-0{k}_desc-synth_T2w.nii.gz" for k in (1, 2)),
        )
        found = find_synthetic(root, root / "derivatives" / "m")
        assert [case.name for case in found.cases] == ["sub-01", "sub-02"]
        for case in found.cases:
            assert case.images["T2w"].name == f"{case.name}_T2w.nii.gz"

    def test_equal_names_in_folders_of_subjects(self, tmp_path):
        names = [f"{part}/patient0{k}/T2.nii.gz" for part in ("real", "fake") for k in (1, 2)]
        touch(tmp_path, *names)
        found = find_synthetic(tmp_path / "real", tmp_path / "fake")
        assert [case.name for case in found.cases] == ["patient01", "patient02"]
        for case in found.cases:
            assert case.synthetic.parent.name == case.images["T2w"].parent.name == case.name

    @pytest.mark.parametrize(
        ("here", "there"),
        [
            ("b/T2.nii.gz", "a/T2.nii.gz"),
            ("b/001_T2.nii.gz", "a/001_T2.nii.gz"),
            ("sub-1/ses-1/anat/sub-1_T2w.nii.gz", "sub-1/ses-2/anat/sub-1_T2w.nii.gz"),
            ("sub-1/anat/sub-1_T2w.nii.gz", "sub-1/anat/old/sub-1_T2w.nii.gz"),
        ],
    )
    def test_a_real_scan_that_is_missing_is_not_replaced_by_that_of_another(
        self, here, there, tmp_path
    ):
        real, synthetic = touch(tmp_path / "real", here), touch(tmp_path / "made", here, there)
        found = find_synthetic(real, synthetic)
        assert [case.synthetic for case in found.cases] == [synthetic / here]
        assert found.left_out == [(Path(there).name, "matches no real scan, or more than one")]

    def test_a_mask_in_the_folder_of_another_subject_is_not_taken(self, tmp_path):
        real, made = (touch(tmp_path / n, "a/T2.nii.gz", "b/T2.nii.gz") for n in ("real", "made"))
        masks = touch(tmp_path / "masks", "b/T2.nii.gz")
        cases = with_files(find_synthetic(real, made).cases, masks, "mask")
        assert [case.mask for case in cases] == [None, masks / "b/T2.nii.gz"]

    def test_several_methods_are_scored_against_one_real_scan(self, tmp_path):
        real = touch(tmp_path / "real", "sub-1_T2w.nii.gz")
        made = touch(tmp_path / "made", "one/sub-1_T2w.nii.gz", "two/sub-1_T2w.nii.gz")
        assert len(find_synthetic(real, made).cases) == 2

    def test_nothing_matches(self, tmp_path):
        touch(tmp_path, "real/a.nii.gz", "fake/b.nii.gz")
        with pytest.raises(InputError, match="no synthetic image that matches"):
            find_synthetic(tmp_path / "real", tmp_path / "fake")
        with pytest.raises(InputError, match="does not exist"):
            find_synthetic(tmp_path / "real", tmp_path / "absent")

    def test_an_ambiguous_match_is_no_match(self):
        candidates = [(Path(name), Path(name)) for name in ("a/x_T2w.nii.gz", "b/x_T2w.nii.gz")]
        assert partner(Path("c/x_T2w.nii.gz"), candidates) is None
        assert partner(Path("b/x_desc-synth_T2w.nii.gz"), candidates) == candidates[1]

    def test_a_file_named_by_its_contrast_matches_only_in_its_folder(self):
        candidates = [(Path("patient07/T2.nii.gz"), Path("patient07/T2.nii.gz"))]
        assert partner(Path("patient19/T2w_synthetic.nii.gz"), candidates) is None

    def test_subjects_whose_folders_tell_them_apart(self, tmp_path):
        names = ("001/scan_T2.nii.gz", "002/scan_T2.nii.gz")
        real, made = (touch(tmp_path / root, *names) for root in ("real", "made"))
        cases = find_synthetic(real, made).cases
        assert [(case.name, case.subject) for case in cases] == [
            ("scan_T2_001", "001"),
            ("scan_T2_002", "002"),
        ]
        (real / names[1]).unlink()
        (made / names[0]).unlink()
        with pytest.raises(InputError, match="no synthetic image that matches"):
            find_synthetic(real, made)

    def test_subject_1_of_two_sites_is_two_people(self, tmp_path):
        names = ("A/001/T2.nii.gz", "B/001/T2.nii.gz")
        real, made = (touch(tmp_path / root, *names) for root in ("real", "made"))
        with pytest.warns(MrbridgeWarning, match="several people"):
            cases = find_synthetic(real, made).cases
        assert {case.subject for case in cases} == {"A_001", "B_001"}

    def test_the_real_scan_is_not_the_source(self, tmp_path):
        real, made = (touch(tmp_path / n, "p_T2w.nii.gz") / "p_T2w.nii.gz" for n in ("r", "m"))
        cases = find_synthetic(real, made).cases
        for source, what in ((real, "real scan"), (made, "synthetic image")):
            with pytest.raises(InputError, match=f"is the {what} itself, not its source"):
                with_files(cases, source, "source")


class TestMasks:
    @pytest.mark.parametrize("people", [("001", "002", "003"), ("anna", "bert", "carl")])
    @pytest.mark.parametrize("name", ["scan_T2.nii.gz", "scan_lesions.nii.gz"])
    @pytest.mark.parametrize("folder", ["", "anat/"])
    def test_of_the_only_subject_that_has_one(self, people, name, folder, tmp_path):
        names = [f"{person}/{folder}scan_T2.nii.gz" for person in people]
        real, made = (touch(tmp_path / root, *names) for root in ("real", "made"))
        masks = touch(tmp_path / "masks", f"{people[1]}/{folder}{name}")
        found = with_files(find_synthetic(real, made).cases, masks, "lesions")
        assert [case.lesions is not None for case in found] == [False, True, False]

    def test_lesions_are_not_the_brain(self, tmp_path):
        root = touch(
            tmp_path, *(f"sub-0{k}/anat/sub-0{k}_T{c}w.nii.gz" for k in "12" for c in "12")
        )
        masks = touch(
            tmp_path / "derivatives/m",
            "sub-01/anat/sub-01_desc-brain_mask.nii.gz",
            "sub-02/anat/sub-02_label-lesion_mask.nii.gz",
        )
        cases = find_pairs(root, "T1w", "T2w").cases
        first, second = with_files(cases, masks, "lesions")
        assert (first.lesions, second.lesions.name) == (None, "sub-02_label-lesion_mask.nii.gz")
        first, second = with_files(cases, masks, "mask")
        assert (first.mask.name, second.mask) == ("sub-01_desc-brain_mask.nii.gz", None)
        # A folder of lesion masks may be where to score.
        (masks / "sub-01/anat/sub-01_desc-brain_mask.nii.gz").unlink()
        assert with_files(cases, masks, "mask")[1].mask is not None

    def test_one_mask_for_all_cases_or_a_folder_matched_by_name(self, tmp_path):
        root = touch(
            tmp_path / "data",
            *(f"sub-0{k}/anat/sub-0{k}_T{c}w.nii.gz" for k in (1, 2) for c in (1, 2)),
        )
        touch(tmp_path, "masks/sub-01_desc-brain_mask.nii.gz", "one.nii.gz")
        cases = find_pairs(root, "T1w", "T2w").cases
        assert {case.mask for case in with_files(cases, tmp_path / "one.nii.gz", "mask")} == {
            tmp_path / "one.nii.gz"
        }
        first, second = with_files(cases, tmp_path / "masks", "mask")
        assert first.mask == tmp_path / "masks/sub-01_desc-brain_mask.nii.gz"
        assert second.mask is None


def test_dicom_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path)
    with pytest.raises(InputError, match=r"is DICOM.*NIfTI"):
        find_pairs(tmp_path, "T1w", "T2w")


class TestFoundFiles:
    @pytest.mark.parametrize(
        ("synthetic", "made_by_translate"),
        [
            ("sub-01_desc-synth_T2w.nii.gz", "sub-01_desc-uncertainty_T2w.nii.gz"),
            ("made_T2w.nii.gz", "made_T2w_uncertainty.nii.gz"),
            ("T2.nii.gz", "T2_uncertainty.nii.gz"),
        ],
    )
    def test_the_map_next_to_a_synthetic_image(self, tmp_path, synthetic, made_by_translate):
        # Next to maps of the other contrast.
        others = ("sub-01_desc-uncertainty_T1w.nii.gz", "T1_uncertainty.nii.gz")
        touch(tmp_path, synthetic, made_by_translate, *others)
        case = Case("a", "a", {"T2w": tmp_path / "x_T2w.nii.gz"}, synthetic=tmp_path / synthetic)
        assert with_found_files(case).uncertainty == tmp_path / made_by_translate

    def test_no_map_of_another_image(self, tmp_path):
        touch(tmp_path, "sub-01_desc-synth_T2w.nii.gz", "sub-02_desc-uncertainty_T2w.nii.gz")
        synthetic = tmp_path / "sub-01_desc-synth_T2w.nii.gz"
        case = Case("a", "a", {"T2w": tmp_path / "x_T2w.nii.gz"}, synthetic=synthetic)
        assert with_found_files(case).uncertainty is None

    def test_lesion_masks_of_a_derivative(self, tmp_path):
        mask = "derivatives/m/sub-01/anat/sub-01_label-lesion_mask.nii.gz"
        touch(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", mask)
        case = Case("a", "a", {"T1w": tmp_path / "sub-01/anat/sub-01_T1w.nii.gz"})
        assert with_found_files(case).lesions == tmp_path / mask

    def test_lesion_masks_among_scans_by_folder(self, tmp_path):
        names = ("T1.nii.gz", "T2.nii.gz", "FLAIR.nii.gz", "T1POST.nii.gz", "lesions.nii.gz")
        for patient in ("p1", "p2"):
            touch(tmp_path / patient, *names)
        cases = [
            Case(p, p, {c: tmp_path / p / f"{c[:2]}.nii.gz" for c in ("T1w", "T2w")})
            for p in ("p1", "p2")
        ]
        found = [case.lesions for case in with_files(cases, tmp_path, "lesions")]
        assert found == [tmp_path / p / "lesions.nii.gz" for p in ("p1", "p2")]
