"""Promises and the tests that guard them: what attacks on mrbridge once broke.

A test is `file::name` below `tests`, or a folder.
"""

from __future__ import annotations

_ATTACK, _SURVIVAL = "attack", "end_to_end/test_survival.py"
_BIDS, _STUDIES = "io/test_bids.py", "io/test_dicom_faults.py"
_BUNDLES = "attack/test_bundles_are_data.py"
_CHECKED = "attack/test_checked_when_read.py"
_HEADERS = "attack/test_dicom_headers.py"
_NAMES = "attack/test_no_names.py"
_OURS = "attack/test_only_ours.py"
_SYNTHESES = "evaluation/test_cases.py::TestSyntheses"
_UNBOUNDED = "attack/test_nothing_unbounded.py"
_WRITERS = "attack/test_two_writers.py"

PROMISES: list[tuple[str, list[str]]] = [
    (
        "Ctrl-C and SIGTERM end every verb with exit code 3, in one line; what is done is recorded",
        ["end_to_end/test_signals.py::test_a_signal_ends_it"],
    ),
    (
        "Code in the working directory or among the data is never run",
        [
            f"{_ATTACK}/test_no_code_from_data.py::test_decoders",
            f"{_ATTACK}/test_no_code_from_data.py::test_worker_processes",
        ],
    ),
    (
        "DICOM to NIfTI does not replace acquired scans",
        [f"{_OURS}::test_dicom_to_nifti_spares_acquired_scans"],
    ),
    (
        "No verb opens a network connection except for `download` and URLs",
        [f"{_ATTACK}/test_no_network.py::test_every_verb_is_here"],
    ),
    (
        "A bundle cannot write outside of the output; nothing in it is run",
        [f"{_BUNDLES}::test_an_edited_bundle_is_refused_in_one_line"],
    ),
    ("Images of several patients are not one series", [f"{_HEADERS}::test_several_patients"]),
    (
        "Folders, tables, reports, runs and images that mrbridge did not write are not replaced",
        [
            f"{_OURS}::test_a_folder_of_arrays_is_not_a_store",
            f"{_OURS}::test_foreign_tables_and_pages_stay",
            f"{_OURS}::test_a_foreign_report_stays",
            f"{_OURS}::test_a_project_is_not_a_run",
            f"{_OURS}::test_an_acquired_image_that_says_synthetic_stays",
        ],
    ),
    (
        "Stores and runs have one writer at a time, on disks and at URLs",
        [
            f"{_WRITERS}::test_the_second_writer_learns_who_the_first_is",
            f"{_WRITERS}::test_two_prepares_at_once_leave_a_whole_store",
            f"{_WRITERS}::test_a_store_at_a_url",
        ],
    ),
    (
        "A damaged checkpoint is found, and the printed remedy works",
        [
            f"{_CHECKED}::test_a_flipped_bit_of_a_checkpoint_is_found_and_the_remedy_works",
            f"{_CHECKED}::test_files_that_are_not_checkpoints",
            f"{_CHECKED}::test_edited_settings_are_reported",
        ],
    ),
    (
        "A batch continues after its worst scan: memory, names, permissions, NaN, cyclic links",
        [
            f"{_SURVIVAL}::test_one_scan_fails_in_any_way",
            f"{_SURVIVAL}::test_a_name_that_becomes_too_long",
            f"{_SURVIVAL}::test_a_folder_that_cannot_be_read",
            f"{_SURVIVAL}::test_nan_in_a_sidecar",
            f"{_SURVIVAL}::test_a_source_that_vanishes",
            f"{_SURVIVAL}::test_cyclic_links",
        ],
    ),
    (
        "A scan that needs too much memory is one line",
        [f"{_SURVIVAL}::test_one_scan_fails_in_any_way"],
    ),
    (
        "A rescale slope that is not a number, or that some images lack, is refused; a decimal "
        "comma is read",
        [
            f"{_HEADERS}::test_a_scale_that_is_not_a_number",
            f"{_HEADERS}::test_a_scale_that_is_missing_in_some",
            f"{_HEADERS}::test_a_decimal_comma_is_read",
        ],
    ),
    (
        "Every slice of a store is checked when it is read",
        [f"{_CHECKED}::test_a_flipped_bit_of_a_slice_is_found"],
    ),
    (
        "Temporary files of killed processes are removed, those of live ones are not",
        [
            "io/test_atomic.py::test_sweeping_takes_the_dead_and_spares_the_living",
            f"{_WRITERS}::test_another_container_is_another_computer",
        ],
    ),
    (
        "An image and its sidecar are of one model, after a kill too",
        [f"{_OURS}::test_a_kill_leaves_no_sidecar_of_another_model"],
    ),
    (
        "Long texts, numbers and nested settings cost time in proportion",
        [
            f"{_UNBOUNDED}::test_masking_takes_time_in_proportion",
            f"{_UNBOUNDED}::test_files_of_settings",
            f"{_UNBOUNDED}::test_assignments",
        ],
    ),
    (
        "Sizes, ranges and names in a bundle have limits",
        [f"{_BUNDLES}::test_an_edited_bundle_is_refused_in_one_line"],
    ),
    (
        "Names of patients are in no output: headers, sidecars, messages, links between datasets",
        [
            f"{_NAMES}::test_a_single_file",
            f"{_NAMES}::test_damaged_files_of_a_study",
            f"{_NAMES}::test_derivatives_do_not_say_where_their_source_is",
            f"{_NAMES}::test_a_run_does_not_name_the_computer",
        ],
    ),
    ("An output keeps the file mode of the one it replaces", [f"{_NAMES}::test_modes_are_kept"]),
    (
        "A bundle is read whole while training replaces it",
        [f"{_CHECKED}::test_a_bundle_is_read_while_it_is_replaced"],
    ),
    ("A training that diverges ends in one line", [f"{_SURVIVAL}::test_a_training_that_diverges"]),
    (
        "A full disk in training, a search or an export is one line, and the same command or "
        "`--resume` continues",
        [
            f"{_SURVIVAL}::test_no_room_for_tensorboard",
            "end_to_end/test_kills_and_full_disks.py::test_a_full_disk",
            "tuning/test_tune.py::test_a_storage_that_cannot_be_used",
            "inference/test_monai.py::test_a_full_disk_is_one_line_and_the_same_command_continues",
        ],
    ),
    (
        "A zip or DICOM bomb is refused before it takes memory",
        [f"{_HEADERS}::test_zip_bombs", f"{_HEADERS}::test_pixels_beyond_rows_and_columns"],
    ),
    ("A cyclic link as an output is one line", [f"{_SURVIVAL}::test_cyclic_links"]),
    (
        '`inspect` says "can be used" of no file that `translate` refuses for its header or size',
        [
            f"{_ATTACK}/test_inspect_agrees.py::test_a_file",
            f"{_ATTACK}/test_inspect_agrees.py::test_a_study",
        ],
    ),
    (
        "One volume of a long series is read",
        [f"{_SURVIVAL}::test_one_volume_of_a_series_that_is_too_large_as_a_whole"],
    ),
    (
        "Closed and full streams, empty arguments, a deleted working directory, a missing home",
        [
            f"{_SURVIVAL}::test_streams_and_empty_arguments",
            f"{_SURVIVAL}::test_a_working_directory_that_was_deleted",
            f"{_SURVIVAL}::test_a_user_without_a_home",
        ],
    ),
    (
        "What steers a terminal is shown, not obeyed",
        [f"{_UNBOUNDED}::test_what_steers_a_terminal_is_shown"],
    ),
    (
        "A manifest of another program is not taken for a store",
        [f"{_UNBOUNDED}::test_a_manifest_of_another_program"],
    ),
    (
        "An evaluation checks its output before it scores",
        [f"{_SURVIVAL}::test_an_evaluation_that_cannot_be_written"],
    ),
    ("A 2D image is turned as its Exif data say", ["io/test_image2d.py::test_exif_orientation"]),
    (
        "Formulas and long numbers in tables are text",
        [f"{_UNBOUNDED}::test_formulas", f"{_UNBOUNDED}::test_long_numbers_in_a_table"],
    ),
    (
        "A table of participants in any encoding does not stop a translation",
        ["io/test_bids.py::test_participants_in_any_encoding"],
    ),
    (
        "An edited download record, a name with NUL, a file without a listed size, a scan damaged "
        "at equal size and an archive without scans are refused or downloaded again",
        [
            "download/test_ixi.py::TestSecondRun::test_refuses_an_edited_record",
            "download/test_ixi.py::TestSecondRun::test_restores_a_lost_or_damaged_scan",
            "download/test_ixi.py::TestArchives::test_without_scans",
            "download/test_fetch.py::TestLimits::test_of_an_endless_file_without_a_listed_size",
            "download/test_openneuro.py::test_names_that_point_out_of_the_folder",
        ],
    ),
    (
        "An edited store manifest is refused in one line",
        [f"{_CHECKED}::test_edited_manifests_are_reported_in_one_line"],
    ),
    (
        "A brain mask of probabilities, or resampled by splines, counts from half of the largest "
        "value on; a scan is refused as a brain mask",
        ["preprocessing/test_skull_strip.py::test_probabilities_and_masks_resampled_by_splines"],
    ),
    (
        "A synthetic image or a mask is never matched to the scan of another subject or session",
        [
            f"{_SYNTHESES}::test_a_real_scan_that_is_missing_is_not_replaced_by_that_of_another",
            f"{_SYNTHESES}::test_a_mask_in_the_folder_of_another_subject_is_not_taken",
        ],
    ),
    (
        "In settings, a key that occurs twice, 1:30 (90 in YAML), 010 (8) and `yes` for a number "
        "are refused",
        [
            "test_settings.py::test_a_key_that_occurs_twice",
            "test_settings.py::test_what_yaml_reads_as_something_else_is_refused",
            "test_settings.py::test_problems_are_named",
        ],
    ),
    (
        "Equal scans in several splits, or as several contrasts, are reported by `prepare`",
        [
            "dataset/test_prepare.py::test_a_file_under_another_name_is_a_leak",
            "dataset/test_prepare.py::test_a_scan_in_another_format_is_a_leak",
        ],
    ),
    (
        "A copy of a rater's answers, and answers to another study, are refused",
        [
            "study/test_study.py::TestAnswers::test_answers_that_are_there_twice",
            "study/test_study.py::TestDesign::test_answers_to_another_study_are_refused",
        ],
    ),
    (
        "Scores of scans that the model was trained on are reported, also after a resume or with "
        "--from on another split",
        [
            "evaluation/test_evaluate.py::TestPairs::test_cases_that_the_model_was_trained_on",
            "training/test_resume.py::TestRefusals::test_a_store_with_another_split",
        ],
    ),
    (
        "The visits of a person are in one split, whether folders or names tell them apart; 1 next "
        "to 01 is reported",
        [
            "io/test_names.py::test_visits_of_a_person_are_of_one_subject",
            "io/test_names.py::test_contrasts_of_a_visit_are_of_one_subject_and_session",
            "io/test_bids.py::test_subjects_that_differ_only_in_zeros",
        ],
    ),
    (
        "Masked voxels of arrays count as NaN",
        ["inference/test_translate.py::TestObjects::test_masked_voxels_count_as_nan"],
    ),
    (
        "A scan whose name says that it is synthetic is refused; no training uses it",
        [
            "contrasts/test_refusals.py::test_what_is_synthetic_by_its_name_alone_is_refused",
        ],
    ),
    (
        "Lesions of a mask that are too small or have no surroundings to compare with are counted",
        ["evaluation/test_measures.py::TestPairs::test_lesions_that_are_not_measured_are_counted"],
    ),
    (
        "What the intent code of a NIfTI header says to be a map, a label map, a transformation or "
        "a surface is refused",
        [
            "contrasts/test_refusals.py"
            "::test_the_intent_of_a_nifti_file_says_that_it_is_something_else",
            "contrasts/test_refusals.py"
            "::test_prepare_evaluate_and_inspect_take_no_label_map_by_its_intent",
        ],
    ),
    (
        "Unit and affine of nibabel images are read as those of files",
        [
            "inference/test_translate.py::TestObjects::test_the_unit_of_a_nibabel_image",
            "inference/test_translate.py::TestObjects::test_a_nibabel_image_with_a_singular_sform",
        ],
    ),
    (
        "nibabel images of Analyze files, which have no orientation, and of damaged files are "
        "refused; those of MINC and AFNI files are translated",
        [
            "inference/test_translate.py::TestObjects::test_a_nibabel_image_without_orientation",
            "inference/test_translate.py::TestObjects::test_a_damaged_file_of_a_nibabel_image",
            "inference/test_translate.py"
            "::TestObjects::test_an_image_of_a_class_that_is_not_written",
        ],
    ),
    (
        "`--match` refuses masks and scans of another contrast than the result's",
        ["inference/test_translate.py::test_what_is_not_matched"],
    ),
    (
        "Slices that were copied only in part, or whose number is lower than the DICOM header "
        "says, are reported",
        [
            "io/test_padding.py::test_parts_that_were_not_written",
            "io/test_padding.py::test_a_dicom_file_that_was_copied_in_part",
            "io/test_dicom_faults.py::TestSlices::test_slices_at_an_end_are_missing",
        ],
    ),
    (
        "`evaluate` reports copies of the real scan, synthetic images that do not correlate with "
        "it, masks outside of the head and sources of other heads",
        [
            "evaluation/test_evaluate.py::TestPairs::test_infinite_scores_are_null_in_json",
            "evaluation/test_evaluate.py::TestFiles::test_an_image_that_does_not_correlate",
            "evaluation/test_evaluate.py::TestFiles::test_a_mask_of_air",
            "evaluation/test_evaluate.py::TestFiles::test_a_source_of_another_subject",
        ],
    ),
    (
        "DICOM studies with a placeholder as PatientID are not those of one person; one PatientID "
        "of several people is reported",
        [
            "dataset/test_prepare_dicom.py::test_a_placeholder_does_not_make_one_person_of_several",
            "dataset/test_prepare_dicom.py::test_one_identifier_of_several_people_is_reported",
        ],
    ),
    (
        "One name and birth date under two PatientIDs, which may be in two splits, is reported",
        ["dataset/test_prepare_dicom.py::test_one_person_under_two_identifiers_is_reported"],
    ),
    (
        "Acquisitions of one series half a slice apart are distinguished by the numbers of their "
        "images; without SliceThickness, this is reported",
        [f"{_STUDIES}::TestSlices::test_two_volumes_half_a_step_apart_in_one_acquisition"],
    ),
    (
        "A DICOM header that contradicts itself about the contrast is reported; one that says "
        "anywhere that it is synthetic is refused",
        [
            f"{_STUDIES}::test_a_header_that_contradicts_itself",
            f"{_STUDIES}::test_a_series_that_says_that_it_is_synthetic",
        ],
    ),
    (
        "DICOM times in seconds instead of milliseconds do not make a T1w scan of every series",
        ["contrasts/test_contrasts.py::test_times_in_seconds_do_not_make_t1w"],
    ),
    (
        "A sidecar that says another contrast than the name of its scan, or a contrast agent, a "
        "map or the like, is reported; one that says that it is synthetic makes it so",
        [
            "io/test_nifti.py::test_a_sidecar_of_another_scan",
            "io/test_nifti.py::test_a_sidecar_says_that_a_scan_is_synthetic",
            "io/test_nifti.py::test_sidecars_further_up_in_a_bids_dataset",
        ],
    ),
    (
        "`evaluate` refuses a real scan whose name says that it is synthetic",
        [f"{_SYNTHESES}::test_a_real_scan_whose_name_says_that_it_is_synthetic"],
    ),
    (
        "Synthetic scans in a table are left out; a table that contradicts the names of its files "
        "is reported",
        [
            f"{_BIDS}::test_synthetic_scans_of_a_table_are_left_out",
            f"{_BIDS}::test_a_table_that_contradicts_names",
        ],
    ),
    (
        "`prepare`, `evaluate` and `translate --also` report images of two anatomies",
        [
            "evaluation/test_evaluate.py::TestPairs::test_scans_of_two_subjects_that_were_swapped",
            "evaluation/test_evaluate.py::TestFiles::test_images_of_two_subjects_that_were_swapped",
            "dataset/test_prepare.py::test_scans_of_one_subject_that_show_two_heads_are_reported",
            "dataset/test_prepare.py"
            "::test_2d_images_of_one_subject_that_show_two_heads_are_reported",
            "dataset/test_prepare_dicom.py"
            "::test_series_of_one_patient_that_show_two_heads_are_reported",
        ],
    ),
    (
        "2D images of two contrasts whose heads differ in size are reported by `prepare`",
        ["dataset/test_prepare.py::test_heads_of_other_size_in_2d_images_are_reported"],
    ),
    (
        "T1w scans that look like T2w, and the reverse, are reported by `prepare`",
        ["dataset/test_prepare.py::test_contrasts_that_were_swapped_are_reported"],
    ),
    (
        "Functions of the package refuse arguments of wrong types, and `workers=0`, in one line",
        ["test_api.py::test_arguments_of_wrong_types"],
    ),
    (
        "FreeSurfer images without geometry are refused; defaults of MINC are reported",
        [
            "inference/test_translate.py::TestObjects::test_a_freesurfer_image_without_geometry",
            "inference/test_translate.py::TestObjects::test_a_minc_image_without_geometry",
        ],
    ),
    (
        "A skull-stripped scan stored as integers of which none is exactly zero is treated as one",
        [
            "inference/test_translator.py::test_a_background_that_is_not_black_changes_nothing",
            "inference/test_dataset.py::test_what_proves_that_the_skull_was_removed",
        ],
    ),
    (
        "Scans in folders that are links are found by every verb, and not used twice",
        [
            "inference/test_translate.py::TestFolders::test_linked_folders_are_followed_once",
            "evaluation/test_cases.py::TestSyntheses::test_linked_folders_are_followed",
            "io/test_dicom_read.py::TestWithoutPreamble::test_a_linked_folder",
        ],
    ),
    (
        "A pipe is not replaced by an output",
        [f"{_SURVIVAL}::test_a_pipe_in_the_place_of_the_output"],
    ),
    (
        "`numpy.seterr` and `PYTHONWARNINGS` change nothing",
        [f"{_SURVIVAL}::test_errors_of_floating_point", "fuzz/test_readers.py::test_a_share"],
    ),
]
"""What holds, and the tests that show it."""


def section() -> list[str]:
    """The table, as lines of the page."""
    lines = ["", "## Promises and their tests", ""]
    lines += ["Each was broken once; its test goes through the real command line where it can.", ""]
    lines += ["| promise | tests |", "|---|---|"]
    for promise, tests in PROMISES:
        lines.append(f"| {promise} | {', '.join(f'`tests/{test}`' for test in tests)} |")
    return lines
