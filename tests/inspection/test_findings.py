"""Clean data give no finding; every simulated problem is found, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from tests.inspection.conftest import facts_of, head

from mrbridge.inspection.duplicates import find_duplicates, near_duplicates
from mrbridge.inspection.facts import Facts
from mrbridge.inspection.findings import Finding, find_misoriented
from mrbridge.inspection.inspect import inspect, run_checks
from mrbridge.phantom import PhantomSettings, write_bids
from mrbridge.volume import Volume

NAME = "sub-03_T2w.nii.gz"
Spoilt = Callable[[Volume], list[Facts]]


def only(findings: list[Finding], kind: str, *names: str) -> Finding:
    """The single finding, of this kind and of these scans."""
    assert [finding.kind for finding in findings] == [kind]
    (finding,) = findings
    assert sorted(name for group in finding.groups for name in group.names) == sorted(names)
    return finding


def changed(change: Callable[[np.ndarray], np.ndarray]) -> Volume:
    volume = head(3, "T2w")
    return replace(volume, voxels=change(volume.voxels.astype(float)).astype(np.int16))


def test_clean_data_give_no_finding(clean: list[Facts]) -> None:
    assert run_checks(clean) == []


def test_the_order_of_scans_does_not_matter(clean: list[Facts], spoilt: Spoilt) -> None:
    facts = spoilt(changed(lambda v: v[:, ::-1]))
    assert run_checks(facts[::-1]) == run_checks(facts)
    assert run_checks(clean[::-1]) == []


def test_an_exact_copy_under_another_subject(clean: list[Facts], tmp_path: Path) -> None:
    facts = [*clean, facts_of(tmp_path, head(3, "T2w"), "07", "T2w")]
    facts.append(facts_of(tmp_path, head(7, "T1w"), "07", "T1w"))
    found = only(run_checks(facts), "exact duplicates", NAME, "sub-07_T2w.nii.gz")
    assert found.severity == "fault"
    assert "several subjects" in found.text


def test_a_copy_stored_in_another_orientation_is_a_copy(clean: list[Facts], tmp_path: Path) -> None:
    volume = head(3, "T2w")
    affine = volume.affine @ np.array(
        [[-1, 0, 0, volume.voxels.shape[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], float
    )
    turned = Volume(volume.voxels[::-1].copy(), affine)
    other = facts_of(tmp_path, turned, "07", "T2w")
    assert other.orientation == "LAS"
    assert other.sha256 == next(one for one in clean if one.name == NAME).sha256


def test_a_copy_under_the_other_contrast(clean: list[Facts], tmp_path: Path) -> None:
    kept = [one for one in clean if one.name != "sub-03_T1w.nii.gz"]
    facts = [*kept, facts_of(tmp_path, head(3, "T2w"), "03", "T1w")]
    found = run_checks(facts)
    assert found[0].kind == "exact duplicates"
    assert found[0].severity == "fault"
    assert "at least one of the labels is wrong" in found[0].text
    # The image shows which label is wrong.
    doubted = next(f for f in found if f.kind == "doubtful contrast labels")
    assert [group.names for group in doubted.groups] == [("sub-03_T1w.nii.gz",)]


def test_a_wrong_label_is_found_in_the_image(clean: list[Facts], tmp_path: Path) -> None:
    facts = [
        facts_of(tmp_path, head(9, "T1w"), "03", "T2w") if o.name == NAME else o for o in clean
    ]
    found = run_checks(facts)
    doubted = next(f for f in found if f.kind == "doubtful contrast labels")
    assert [group.names for group in doubted.groups] == [(NAME,)]
    assert "very likely T1w" in doubted.groups[0].remark
    # Its histogram, noise and such are those of the other contrast; other scans have no findings.
    assert {name for f in found for group in f.groups for name in group.names} == {NAME}


def test_a_near_duplicate_of_another_subject(clean: list[Facts], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    copy = changed(lambda v: 0.9 * v + 20 * (v > 0) + rng.normal(0, 8, v.shape) * (v > 0))
    facts = [*clean, facts_of(tmp_path, copy, "07", "T2w")]
    facts.append(facts_of(tmp_path, head(7, "T1w"), "07", "T1w"))
    found = only(run_checks(facts), "near-duplicates", NAME, "sub-07_T2w.nii.gz")
    assert found.severity == "warning"


def test_a_near_duplicate_across_splits_is_a_fault(clean: list[Facts], tmp_path: Path) -> None:
    def in_split(one: Facts, split: str) -> Facts:
        return replace(one, entry=replace(one.entry, scan=replace(one.entry.scan, split=split)))

    copy = facts_of(tmp_path, changed(lambda v: 0.95 * v), "07", "T2w")
    facts = [*(in_split(one, "train") for one in clean), in_split(copy, "val")]
    kinds = {f.kind: f.severity for f in run_checks(facts)}
    assert kinds["near-duplicates across splits"] == "fault"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda v: v[:, :, ::-1], "upside down"),
        (lambda v: v[:, ::-1], "front to back"),
    ],
)
def test_a_flipped_volume(
    spoilt: Spoilt, change: Callable[[np.ndarray], np.ndarray], word: str
) -> None:
    found = only(run_checks(spoilt(changed(change))), "unusual orientation", NAME)
    assert found.groups[0].remark == word


def test_left_and_right_are_checked_by_the_header_only(clean: list[Facts], spoilt: Spoilt) -> None:
    volume = head(3, "T2w")
    affine = volume.affine * np.array([-1, 1, 1, 1.0])
    found = only(run_checks(spoilt(Volume(volume.voxels, affine))), "opposite handedness", NAME)
    assert found.severity == "note"
    # A mirrored image with an unchanged header is not found, as the finding says.
    assert run_checks(spoilt(Volume(volume.voxels[::-1].copy(), volume.affine))) == []


def test_a_field_of_view_that_is_too_small(spoilt: Spoilt) -> None:
    volume = head(3, "T2w")
    found = run_checks(spoilt(Volume(volume.voxels[25:], volume.affine)))
    cut = next(f for f in found if f.kind == "truncated field of view")
    assert [group.names for group in cut.groups] == [(NAME,)]
    assert cut.groups[0].remark.startswith("left (")  # i grows to the patient's right


def test_a_noisy_scan(spoilt: Spoilt) -> None:
    rng = np.random.default_rng(0)
    noisy = changed(lambda v: np.clip(v + rng.normal(0, 120, v.shape) * (v > 0), 0, None))
    found = run_checks(spoilt(noisy))
    assert {f.kind for f in found} <= {"noise and motion", "unusual intensities"}
    spoiled = next(f for f in found if f.kind == "noise and motion")
    assert {group.names for group in spoiled.groups} == {(NAME,)}
    assert "noisy" in spoiled.groups[0].remark


def test_a_blurred_scan(spoilt: Spoilt) -> None:
    blurred = changed(lambda v: ndimage.gaussian_filter(v, (2.5, 2.5, 0)))
    found = run_checks(spoilt(blurred))
    spoiled = next(f for f in found if f.kind == "noise and motion")
    assert {name for f in found for g in f.groups for name in g.names} == {NAME}
    assert any("smooth" in g.remark or "blurred" in g.remark for g in spoiled.groups)


def test_more_noise_measures_as_more_noise(clean: list[Facts], spoilt: Spoilt) -> None:
    rng = np.random.default_rng(0)
    levels = []
    for sigma in (0, 20, 60, 120):
        noisy = changed(
            lambda v, s=sigma: np.clip(  # type: ignore[misc]
                v + rng.normal(0, s, v.shape) * (v > 0), 0, None
            )
        )
        levels.append(next(o for o in spoilt(noisy) if o.name == NAME).noise)
    assert levels == sorted(levels)


def test_a_missing_contrast_is_named(clean: list[Facts]) -> None:
    found = only(run_checks([o for o in clean if o.name != NAME]), "unequal counts", "03")
    assert found.groups[0].remark == "no T2w"


def test_unequal_counts_without_subjects(clean: list[Facts]) -> None:
    def anonymous(one: Facts) -> Facts:
        return replace(one, entry=replace(one.entry, scan=replace(one.entry.scan, subject=None)))

    facts = [anonymous(one) for one in clean if one.contrast == "T1w" or "01" in one.name]
    counts = next(f for f in run_checks(facts) if f.kind == "unequal counts")
    assert counts.severity == "warning"
    assert "6 T1w" in counts.text


def test_undeclared_pairs_of_different_subjects_are_found(clean: list[Facts]) -> None:
    def renamed(one: Facts) -> Facts:
        subject = f"{one.contrast}-{one.subject}"
        return replace(one, entry=replace(one.entry, scan=replace(one.entry.scan, subject=subject)))

    found = next(f for f in run_checks([*map(renamed, clean)]) if f.kind == "undeclared pairs")
    assert {group.names for group in found.groups} == {
        (f"sub-0{n}_T1w.nii.gz", f"sub-0{n}_T2w.nii.gz") for n in range(1, 7)
    }


def slices_of_a_head() -> list[np.ndarray]:
    """Thumbnails from the neck to the top: large ones below, small ones above, which lie apart; the
    face to the left, as in some exports."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    images = []
    for number in range(24):
        rng = np.random.default_rng(number)
        size = 0.85 - 0.02 * number
        middle = rng.uniform(-0.3, 0.3)
        u, v = (x - middle) / size, y / (0.7 * size)
        narrow = u + 0.25 * v**2  # a forehead is narrower than the back of the head
        head = narrow**2 + v**2 < 1
        eyes = ((u + 0.6) ** 2 + (np.abs(v) - 0.4) ** 2 < 0.02) & (number < 10)
        fluid = (u - 0.1) ** 2 + (v / 0.5) ** 2 < 0.04
        image = np.where(head, 150 + rng.normal(0, 5, head.shape), 0)
        images.append(np.where(eyes, 240, np.where(fluid & head, 60, image)).astype(np.uint8))
    return images


def pictured(clean: list[Facts], images: list[np.ndarray]) -> list[Facts]:
    """Facts of pictures that look like these."""
    kept = replace(clean[0], spacing=None, side_view=None)
    return [
        replace(kept, thumbnail=image, entry=replace(kept.entry, name=f"{number}.png"))
        for number, image in enumerate(images)
    ]


def test_slices_from_bottom_to_top_are_not_misoriented(clean: list[Facts]) -> None:
    assert find_misoriented(pictured(clean, slices_of_a_head())) == []


@pytest.mark.parametrize(
    ("turn", "word"), [(lambda a: a[:, ::-1], "mirrored"), (np.rot90, "rotated by 90°")]
)
def test_flipped_and_rotated_slices(
    clean: list[Facts], turn: Callable[[np.ndarray], np.ndarray], word: str
) -> None:
    images = slices_of_a_head()
    for number in (3, 15):
        images[number] = turn(images[number])
    (found,) = find_misoriented(pictured(clean, images))
    assert [(g.names, g.remark) for g in found.groups] == [(("3.png",), word), (("15.png",), word)]


def test_many_copies_are_one_group(clean: list[Facts]) -> None:
    def copy(number: int) -> Facts:
        scan = replace(clean[0].entry.scan, subject=str(number))
        return replace(clean[0], entry=replace(clean[0].entry, name=f"copy {number}", scan=scan))

    found = find_duplicates([*clean[1:], *(copy(number) for number in range(1_000))])
    (exact,) = [finding for finding in found if finding.kind == "exact duplicates"]
    assert [len(group.names) for group in exact.groups] == [1_000]
    assert "several subjects" in exact.text


def image(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal((64, 64)), 2)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    return (
        np.where(x**2 + y**2 < 0.7, 128 + 50 * field / field.std(), 0).clip(0, 255).astype(np.uint8)
    )


def test_only_copies_are_found_among_many_images() -> None:
    rng = np.random.default_rng(0)
    images = [image(n) for n in range(1_100)]  # more than are compared at once
    images[1_050] = (0.8 * images[3] + rng.normal(5, 2, (64, 64))).clip(0, 255).astype(np.uint8)
    images[700] = (255 * (images[20] / 255) ** 0.8).astype(np.uint8)
    assert [(i, j) for i, j, _ in near_duplicates(images)] == [(3, 1_050), (20, 700)]


def test_equal_images_have_the_greatest_similarity() -> None:
    ((i, j, similarity),) = near_duplicates([image(1), image(2), image(1)])
    assert (i, j) == (0, 2)
    assert similarity > 0.9999


def test_few_images() -> None:
    assert near_duplicates([]) == []
    assert near_duplicates([image(0)]) == []
    black = np.zeros((64, 64), np.uint8)
    assert near_duplicates([black, image(0)]) == []


@pytest.mark.nightly
def test_simulated_subjects(tmp_path: Path) -> None:
    write_bids(tmp_path / "bids", PhantomSettings(subjects=6, spacing_mm=2.0, seed=3))
    found = inspect(tmp_path / "bids", images=True)
    assert found.contrasts == {"T1w": 6, "T2w": 6}
    assert found.findings == []
    # After two names are swapped, only these scans are found.
    one, other = (tmp_path / f"bids/sub-02/anat/sub-02_{c}.nii.gz" for c in ("T1w", "T2w"))
    shutil.move(one, tmp_path / "kept.nii.gz")
    shutil.move(other, one)
    shutil.move(tmp_path / "kept.nii.gz", other)
    findings = inspect(tmp_path / "bids", images=True).findings
    doubted = next(f for f in findings if f.kind == "doubtful contrast labels")
    assert {g.names for g in doubted.groups} == {
        (f"sub-02/anat/{path.name}",) for path in (one, other)
    }
    named = {Path(name).name for f in findings for group in f.groups for name in group.names}
    assert named == {one.name, other.name}
