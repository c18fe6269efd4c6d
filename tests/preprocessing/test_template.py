"""Slices along the template's axes: found, refused, stored in their place, and turned back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from mrbridge import io
from mrbridge.dataset import prepare_scan
from mrbridge.dataset.prepare import prepare
from mrbridge.dataset.settings import PrepareSettings
from mrbridge.dataset.store import Store
from mrbridge.errors import InputError, SettingsError, SomeScansFailed
from mrbridge.preprocessing import preprocess as preprocessing, registration, template
from mrbridge.preprocessing.foreground import Head
from mrbridge.preprocessing.preprocess import preprocess
from mrbridge.preprocessing.registration import Registration
from mrbridge.preprocessing.resample import along_axes, grid_of, moved
from mrbridge.preprocessing.settings import PreprocessSettings
from mrbridge.preprocessing.template import (
    AGREEMENT_MM,
    Alignment,
    TemplateFit,
    align,
    nearest_rigid,
)
from mrbridge.volume import Volume

Maker = Callable[..., Path]


def turn(
    degrees: float, axis: int = 0, shift: tuple[float, float, float] = (0, 0, 0)
) -> np.ndarray:
    """A rotation about one axis of RAS+ space, and a shift."""
    one, other = [k for k in range(3) if k != axis]
    result = np.eye(4)
    angle = np.radians(degrees)
    result[[one, other], [one, other]] = np.cos(angle)
    result[one, other], result[other, one] = -np.sin(angle), np.sin(angle)
    result[:3, 3] = shift
    return result


def head(spacing: tuple[float, float, float] = (2, 2, 4), centre: float = 0.0) -> Volume:
    """A smooth ellipsoid with a bright spot at (20, 30, 12) mm from its middle, in empty air."""
    shape = tuple(int(220 / step) for step in spacing)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = centre - 110.0
    places = moved(np.argwhere(np.ones(shape)).astype(float), affine).reshape(*shape, 3) - centre
    inside = ((places / (70, 88, 65)) ** 2).sum(-1) < 1
    spot = np.exp(-(((places - (20, 30, 12)) / 8) ** 2).sum(-1) / 2)
    values = ndimage.gaussian_filter(inside * 500.0, np.array(6.0) / spacing) + 900 * spot
    return Volume(np.where(values > 1, values, 0).astype(np.float32), affine)


def spot_of(volume: Volume) -> np.ndarray:
    """Where the brightest voxels lie, RAS+ mm."""
    assert volume.affine is not None
    bright = np.clip(volume.voxels - 700.0, 0, None)
    return moved(np.array([ndimage.center_of_mass(bright)]), volume.affine)[0]


class TestPlacement:
    @pytest.mark.parametrize("axis", [0, 1, 2])
    @pytest.mark.parametrize("spacing", [(2, 2, 4), (4, 2, 2), (2, 3, 2)])
    def test_a_point_moves_by_the_transform(
        self, axis: int, spacing: tuple[float, float, float]
    ) -> None:
        scan, transform = head(spacing), turn(14, axis, (5, -9, 21))
        placed = along_axes(Head(scan), transform, None).placed(scan)
        assert placed.affine is not None
        np.testing.assert_allclose(placed.affine[:3, :3], np.diag(spacing), atol=1e-12)
        expected = moved(spot_of(scan)[None], transform)[0]
        np.testing.assert_allclose(spot_of(placed), expected, atol=0.3)

    def test_scans_of_one_thickness_have_slices_at_the_same_heights(self) -> None:
        for shift in ((0, 0, 0), (1.3, -2.7, 3.1)):
            scan = head()
            onto = along_axes(Head(scan), turn(8, 0, shift), 1.5).onto
            assert onto.affine is not None
            np.testing.assert_allclose(np.diag(onto.affine)[:3], (1.5, 1.5, 4))
            steps = onto.affine[:3, 3] / (1.5, 1.5, 4)
            np.testing.assert_allclose(steps, np.round(steps), atol=1e-9)

    def test_identity_changes_nothing(self) -> None:
        scan = head((2, 2, 2))  # whose voxels lie at multiples of their edges
        place = along_axes(Head(scan), np.eye(4), None)
        placed = place.placed(scan)
        np.testing.assert_allclose(placed.voxels.sum(), scan.voxels.sum(), rtol=1e-5)
        np.testing.assert_allclose(place.undo(placed.voxels, 0.0), scan.voxels, atol=0.1)

    def test_placement_is_undone(self) -> None:
        """Smooth images come back, up to what two interpolations lose; the grid holds the head."""
        scan = head((2, 2, 2))
        place = along_axes(Head(scan), turn(12, 0, (3, 4, 5)) @ turn(-7, 2), 2.0)
        back = place.undo(place.placed(scan).voxels, -5.0)
        seen = back != -5.0
        assert not scan.voxels[~seen].any()
        assert np.abs(back - scan.voxels)[seen].max() < 0.05 * scan.voxels.max()
        inside = scan.voxels > 250
        there = place.placed_mask(inside)
        assert there.sum() == pytest.approx(inside.sum(), rel=0.01)

    def test_2d_images_and_empty_scans_are_refused(self) -> None:
        with pytest.raises(InputError, match="2D image"):
            along_axes(Head(Volume(np.ones((8, 8, 1)), None)), np.eye(4), None)
        with pytest.raises(InputError, match="nothing"):
            along_axes(Head(Volume(np.ones((8, 8, 8)), np.eye(4))), np.eye(4), None)


def test_the_nearest_rigid_motion() -> None:
    points = np.random.default_rng(0).normal(0, 40, (500, 3))
    motion = turn(25, 0, (3, 9, -4)) @ turn(-11, 1)
    np.testing.assert_allclose(nearest_rigid(points, moved(points, motion)), motion, atol=1e-10)
    larger = np.diag([1.2, 1.2, 1.2, 1.0])  # growth is not a rotation
    found = nearest_rigid(points, moved(points, motion @ larger))
    np.testing.assert_allclose(found[:3, :3], motion[:3, :3], atol=1e-10)
    mirrored = nearest_rigid(points, points * (-1, 1, 1))
    assert np.linalg.det(mirrored[:3, :3]) == pytest.approx(1)


Says = Callable[..., None]


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> Says:
    """What searches end at: transforms from template to scan, and mutual information."""

    def say(*ends: np.ndarray, information: float = 0.4) -> None:
        fits = [TemplateFit(end, information - 0.001 * number) for number, end in enumerate(ends)]
        monkeypatch.setattr(template, "template_fits", lambda *_: fits)

    return say


SIZE = np.diag([0.9, 0.92, 0.85, 1.0])


class TestDecision:
    def test_rigid_keeps_the_size_and_affine_takes_that_of_the_template(
        self, searched: Says
    ) -> None:
        end = turn(10, 0, (0, 12, -4)) @ SIZE
        searched(end, end, end)
        rigid, affine = (align(Head(head()), kind) for kind in ("rigid", "affine"))
        np.testing.assert_allclose(affine.transform @ end, np.eye(4), atol=1e-9)
        np.testing.assert_allclose(np.linalg.svd(rigid.transform[:3, :3])[1], 1, atol=1e-9)
        assert rigid.angle == pytest.approx(10, abs=0.5)
        assert rigid.sizes == pytest.approx((0.85, 0.92))
        content = rigid.as_json()
        np.testing.assert_allclose(content["scan_to_template_ras_mm"], rigid.transform, atol=1e-6)

    def test_the_tolerance_between_people_is_larger_than_within_one(self, searched: Says) -> None:
        assert AGREEMENT_MM > registration.AGREEMENT_MM
        near, far = (turn(0, 0, (0, 0, mm)) @ SIZE for mm in (AGREEMENT_MM - 1, AGREEMENT_MM + 1))
        searched(SIZE, SIZE, near)
        assert align(Head(head()), "rigid").residual_mm == pytest.approx(AGREEMENT_MM - 1)
        searched(SIZE, SIZE, far)
        with pytest.raises(InputError, match=r"searches end 5\.0 mm apart"):
            align(Head(head()), "rigid")

    def test_a_search_that_went_astray_does_not_count(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        astray = turn(30, 0, (0, 50, 0)) @ SIZE

        def answer(values: tuple[float, float, float]) -> None:
            fits = list(map(TemplateFit, (SIZE, SIZE, astray), values))
            monkeypatch.setattr(template, "template_fits", lambda *_: fits)

        answer((0.4, 0.39, 0.15))
        assert align(Head(head()), "rigid").residual_mm == 0
        answer((0.4, 0.39, 0.35))
        with pytest.raises(InputError, match="mm apart"):
            align(Head(head()), "rigid")
        answer((0.4, 0.2, 0.15))
        with pytest.raises(InputError, match="only one search"):
            align(Head(head()), "rigid")

    @pytest.mark.parametrize(
        ("ends", "information", "why"),
        [
            ([SIZE], 0.4, "only one search"),
            ([SIZE] * 3, 0.1, "shares 0.10 nats"),
            ([np.diag([1.3, 0.9, 0.9, 1])] * 3, 0.4, "0.90 to 1.30 times"),
            ([np.diag([1.19, 1.19, 1.19, 1])] * 3, 0.4, "litres"),
            ([turn(0, 0, (0, 0, 150)) @ SIZE] * 3, 0.4, "field of view"),
        ],
    )
    def test_implausible_alignments_are_refused(
        self, searched: Says, ends: list[np.ndarray], information: float, why: str
    ) -> None:
        searched(*ends, information=information)
        with pytest.raises(InputError, match=why):
            align(Head(head()), "affine")

    def test_pictures(self) -> None:
        with pytest.raises(InputError, match="2D image"):
            align(Head(Volume(np.ones((8, 8, 1), np.uint8), None)), "rigid")


def test_skull_stripping_and_alignment_share_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    import SimpleITK as sitk

    searches = []

    class Search:
        def __init__(self, *_: object) -> None:
            searches.append(self)

        def ends(self, *_: object) -> list[tuple[float, sitk.AffineTransform]]:
            return [(0.4, sitk.AffineTransform(3)), (0.3, sitk.AffineTransform(3))]

        def last(self, _: object) -> TemplateFit:
            return TemplateFit(np.diag([0.9, 0.9, 0.9, 1]), 0.4)

    monkeypatch.setattr(template, "_TemplateSearch", Search)
    versions = len(template._template().versions)
    for number in (1, 2):
        scan = Head(head())
        align(scan, "rigid")
        assert template.brain_by_template(scan).any()
        assert len(searches) == number * versions


@pytest.mark.parametrize(("well", "heights"), [(2, 1), (1, 2), (0, 2)])
def test_a_tall_head_is_searched_lower_if_fewer_than_two_searches_end_well(
    monkeypatch: pytest.MonkeyPatch, well: int, heights: int
) -> None:
    import SimpleITK as sitk

    centres: list[float] = []

    class Search:
        def __init__(self, *_: object) -> None:
            pass

        def ends(self, centre: np.ndarray, _: float) -> list[tuple[float, sitk.AffineTransform]]:
            first = not centres or centre[2] == centres[0]
            centres.append(centre[2])
            values = [0.4] * well + [0.2] if first else [0.5, 0.5]
            return [(value, sitk.AffineTransform(3)) for value in values]

        def last(self, _: object) -> TemplateFit:
            return TemplateFit(np.diag([0.9, 0.9, 0.9, 1]), 0.4)

    monkeypatch.setattr(template, "_TemplateSearch", Search)
    align(Head(head()), "rigid")
    assert len(set(centres)) == heights
    assert min(centres) == max(centres) - 16 * (heights - 1)


KNOWN = turn(9, 0, (2, -3, 6))


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every scan lies where KNOWN says, but for those at the edge of a scanner."""

    def answer(head: Head, kind: str) -> Alignment:
        if head.volume.voxels.max() > 30_000:
            raise InputError("alignment with the template did not converge: a test says so")
        return Alignment(KNOWN, "rigid", 0.4, 0.3, 9.0, (0.8, 0.9))

    for module in (preprocessing, prepare_scan):
        monkeypatch.setattr(module, "align", answer)


RIGID = PrepareSettings().changed({"standard": {"align": "rigid"}})


@pytest.mark.usefixtures("known")
@pytest.mark.filterwarnings("ignore:.* may be swapped")
@pytest.mark.filterwarnings("ignore:.* in several splits")
class TestPrepare:
    def test_a_bright_spot_is_at_its_position_in_the_store(self, tmp_path: Path) -> None:
        """Through the record's affine, a pixel of the store is a place in the template."""
        for contrast in ("T1w", "T2w"):
            io.write(head(), tmp_path / f"bids/sub-1/anat/sub-1_{contrast}.nii.gz")
        (tmp_path / "bids/dataset_description.json").write_text('{"Name": "made by a test"}')
        for settings, transform in ((PrepareSettings(), np.eye(4)), (RIGID, KNOWN)):
            store = prepare(tmp_path / "bids", tmp_path / "s", settings)
            record = Store.open(tmp_path / "s").records("T1w")[0]
            bright = np.clip(store.slices(record).astype(float) - 0.7, 0, None)
            slice_, row, column = ndimage.center_of_mass(bright)
            place = record.slice_indices[0] + slice_, row, column
            found = moved(np.array([place]), np.array(record.affine))[0]
            expected = moved(np.array([[20.0, 30.0, 12.0]]), transform)[0]
            np.testing.assert_allclose(found, expected, atol=0.7)
        assert record.alignment is not None
        assert record.alignment["scan_to_template_ras_mm"] == np.round(KNOWN, 8).tolist()
        assert record.spacing_mm == pytest.approx((4, 1, 1))

    def test_pairs_stay_pairs(
        self, bids: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A scan that is registered follows its subject's source scan, in one interpolation."""
        root = bids(3)
        apart = turn(6, 2, (2, -1, 3))
        for path in root.glob("sub-*/anat/*_T2w.nii.gz"):
            scan = io.read(path)
            assert scan.affine is not None
            io.write(replace(scan, affine=np.linalg.inv(apart) @ scan.affine, header=None), path)
        found = Registration(apart, "rigid", 0.4, 0.8, 3.7, 0.2, 9, 9, 1.0)
        monkeypatch.setattr(registration, "register", lambda *_: found)
        both = RIGID.changed({"registration": "rigid"})
        store = prepare(root, tmp_path / "s", both)
        pairs = [pair for split in ("train", "val", "test") for pair in store.pairs(split)]
        assert len(pairs) == 3
        for source, target, _ in pairs:
            assert source.affine == target.affine
            assert source.alignment == target.alignment
            assert (source.registration is None, target.registration is None) == (True, False)
            assert source.shape[1:] == target.shape[1:]
            one = store.slices(source) > -0.9
            other = store.slices(target) > -0.9
            both_have = sorted(set(source.slice_indices) & set(target.slice_indices))
            places = [[r.slice_indices.index(k) for k in both_have] for r in (source, target)]
            assert (one[places[0]] != other[places[1]]).mean() < 0.03

    def test_refusals_are_listed(self, bids: Maker, tmp_path: Path) -> None:
        root = bids(3)
        path = root / "sub-02/anat/sub-02_T2w.nii.gz"
        scan = io.read(path)
        io.write(replace(scan, voxels=scan.voxels * 35, header=None), path)
        with pytest.raises(SomeScansFailed, match=r"sub-02_T2w.nii.gz: alignment with the templ"):
            prepare(root, tmp_path / "s", RIGID)
        assert len(Store.open(tmp_path / "s").records()) == 5

    def test_the_brain_mask_is_aligned_too(self) -> None:
        """A mask in the scan's own voxels; what lies outside is black on the template's grid."""
        scan = head((2, 2, 2))
        inside = scan.voxels > 250
        mask = Volume(inside.astype(np.uint8), scan.affine)
        wanted = PreprocessSettings(spacing_mm=2.0, align="rigid", brain="mask")
        made = preprocess(scan, wanted, mask)
        np.testing.assert_array_equal(made.brain, inside)
        assert (made.slices > -1).sum() == pytest.approx(inside.sum(), rel=0.02)
        grown = made.undo((made.slices > -1).astype(np.float32), 0.0) > 0.5
        assert (grown != inside).sum() < 0.05 * inside.sum()


def test_invalid_values_are_refused() -> None:
    with pytest.raises(SettingsError, match="align"):
        PreprocessSettings.build({"align": "yes"})


def test_scans_are_not_aligned_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing, "align", None)
    made = preprocess(head(), PreprocessSettings())
    assert made.placement is None
    assert made.alignment is None
    assert grid_of(head()).voxels.shape == head().voxels.shape


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_the_template_moved_and_resized_is_found(kind: str) -> None:
    """Turned, shifted and shrunk: brought back to within 1 mm; affine, to its size too."""
    from nilearn.datasets import load_mni152_template

    image = load_mni152_template(2)
    size = np.diag([0.9, 0.93, 0.88, 1.0])
    there = turn(11, 0, (6, -14, 35)) @ turn(-6, 2) @ size
    voxels = np.asarray(image.dataobj, np.float32) * 800
    scan = Volume(voxels, there @ image.affine)
    found = align(Head(scan), "affine" if kind == "affine" else "rigid")
    assert found.residual_mm < AGREEMENT_MM
    points = template._brain_points()
    ends = moved(points, found.transform @ there)
    if kind == "affine":
        assert template._rms_distance(ends, points) < 1
    else:
        rigid = nearest_rigid(points, ends)
        assert template._rms_distance(ends, moved(points, rigid)) < 12
        turned = nearest_rigid(moved(points, size), ends)
        angle = np.degrees(np.arccos((np.trace(turned[:3, :3]) - 1) / 2))
        assert angle < 1
        assert np.linalg.norm(ends.mean(axis=0) - points.mean(axis=0)) < 1


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["noise", "upside down"])
def test_scans_without_a_head_are_refused(wrong: str) -> None:
    from nilearn.datasets import load_mni152_template

    image = load_mni152_template(2)
    voxels = np.asarray(image.dataobj, np.float32) * 800
    if wrong == "noise":
        voxels = np.random.default_rng(0).normal(300, 40, voxels.shape).astype(np.float32)
    else:
        voxels = np.ascontiguousarray(voxels[:, :, ::-1])
    with pytest.raises(InputError, match=r"did not converge|no brain"):
        align(Head(Volume(voxels, np.asarray(image.affine))), "rigid")
