"""The surroundings of a head do not change what is made of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from scipy import ndimage

import mrbridge
from mrbridge import io
from mrbridge.bundle import Bundle
from mrbridge.dataset.prepare import prepare
from mrbridge.dataset.store import Store
from mrbridge.inference.translator import Translator
from mrbridge.volume import Volume

Widths = list[tuple[int, int]]

RANGE, CORRELATION = 0.005, 0.999
"""How far values inside the head may differ, as a share of the range, and correlate at least."""

quick = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def head(
    spacing: tuple[float, float, float] = (5.0, 5.0, 5.0), air: float = 0.0, seed: int = 0
) -> Volume:
    """A head of 130 x 170 x 140 mm, with noise in the air around it or none."""
    rng = np.random.default_rng(seed)
    shape = [round(size / step) for size, step in zip((160, 200, 170), spacing, strict=True)]
    axes = [
        (np.arange(n) - (n - 1) / 2) * step / half
        for n, step, half in zip(shape, spacing, (65, 85, 70), strict=True)
    ]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    away = np.sqrt(x**2 + y**2 + z**2)
    folds = ndimage.gaussian_filter(rng.standard_normal(shape), 8 / np.array(spacing))
    tissue = np.where(folds > 0, 700, 450)
    values = np.select([np.hypot(x, y + 0.1) < 0.2, away < 0.85, away < 0.93], [120, tissue, 60], 0)
    values = np.where((away >= 0.93) & (away < 1), 900, values).astype(float)
    noise = rng.normal(0, air, (2, *shape))
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -80, -100, -60
    return Volume(np.hypot(values + noise[0], noise[1]).astype(np.int16), affine, contrast="T1w")


def padded(volume: Volume, widths: Widths) -> Volume:
    """With so many voxels of zeros before and after, along each axis."""
    voxels = np.pad(volume.voxels, widths)
    if volume.affine is None:
        return replace(volume, voxels=voxels)
    affine = volume.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ [before for before, _ in widths]
    return replace(volume, voxels=voxels, affine=affine)


def unpadded(voxels: np.ndarray, widths: Widths) -> np.ndarray:
    kept = (
        slice(before, size - after)
        for (before, after), size in zip(widths, voxels.shape, strict=True)
    )
    return voxels[tuple(kept)]


def assert_same(made: np.ndarray, expected: np.ndarray, inside: np.ndarray) -> None:
    assert np.ptp(expected[inside]) > 0, "something was made"
    apart = np.abs(made.astype(float) - expected)[inside].max()
    assert apart <= RANGE * np.ptp(expected)
    assert np.corrcoef(made[inside], expected[inside])[0, 1] >= CORRELATION


def translated(volume: Volume, model: Bundle | str, planes: str | None = None) -> np.ndarray:
    """Without the input check, which takes longer than all else."""
    return Translator(model, "cpu", planes).translate(volume).voxels


sides = st.tuples(*[st.integers(0, 300)] * 6)


@pytest.mark.parametrize("air", [0.0, 8.0])
def test_zeros_around_a_head_change_nothing(air: float, tiny_bundle: Bundle) -> None:
    scan = head(air=air)
    expected, inside = translated(scan, tiny_bundle, "axial"), head().voxels > 0

    @quick
    @given(millimetres=sides)
    def law(millimetres: tuple[int, ...]) -> None:
        counts = [size // 5 for size in millimetres]
        widths = [(counts[0], counts[1]), (counts[2], counts[3]), (counts[4], counts[5])]
        wide = padded(scan, widths)
        made = translated(wide, tiny_bundle, "axial")
        assert made.shape == wide.voxels.shape
        assert_same(unpadded(made, widths), expected, inside)

    law()


def test_nor_in_three_planes(tiny_bundle: Bundle) -> None:
    scan = head((5.0, 5.0, 8.0), air=8.0)
    widths = [(0, 60), (17, 4), (38, 1)]
    made = [translated(volume, tiny_bundle, "all") for volume in (scan, padded(scan, widths))]
    assert_same(unpadded(made[1], widths), made[0], head((5.0, 5.0, 8.0)).voxels > 0)


@pytest.mark.parametrize("spacing", [(0.9, 0.9, 12.0), (12.0, 1.3, 1.3), (2.0, 7.0, 1.7)])
def test_nor_where_slices_are_resampled(
    spacing: tuple[float, float, float], tiny_bundle: Bundle
) -> None:
    scan = head(spacing, air=8.0)
    widths = [(7, 2), (0, 31), (5, 0)]
    made = [translated(volume, tiny_bundle) for volume in (scan, padded(scan, widths))]
    assert_same(unpadded(made[1], widths), made[0], head(spacing).voxels > 0)


def test_a_stripped_brain_and_a_tight_crop_of_it(tiny_bundle: Bundle) -> None:
    """Nothing around the brain, in its field of view or none."""
    scan = head()
    ends = [
        (np.flatnonzero(scan.voxels.any(axis=tuple({0, 1, 2} - {axis})))[[0, -1]] + [0, 1]).tolist()
        for axis in range(3)
    ]
    tight = scan.voxels[tuple(slice(*end) for end in ends)]
    assert scan.affine is not None
    affine = scan.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [end[0] for end in ends]
    made = translated(Volume(tight, affine, contrast="T1w"), tiny_bundle)
    whole = translated(scan, tiny_bundle)
    whole = whole[tuple(slice(*end) for end in ends)]
    assert_same(made, whole, tight > 0)


@pytest.mark.parametrize("shift", [(1, 0, 0), (-2, 2, 1), (0, -1, -2)])
def test_the_position_of_the_head_in_its_field_of_view(
    shift: tuple[int, int, int], tiny_bundle: Bundle
) -> None:
    scan = padded(head(), [(2, 2)] * 3)
    moved = replace(scan, voxels=np.roll(scan.voxels, shift, (0, 1, 2)))
    made = [translated(volume, tiny_bundle) for volume in (scan, moved)]
    back = np.roll(made[1], [-step for step in shift], (0, 1, 2))
    assert_same(back, made[0], scan.voxels > 0)


def test_through_files(tiny_bundle: Bundle, tmp_path: Path) -> None:
    scan, widths = head(air=8.0), [(3, 20), (0, 9), (14, 1)]
    made = []
    for name, volume in (("plain", scan), ("wide", padded(scan, widths))):
        path = io.write(volume, tmp_path / f"{name}_T1w.nii.gz")
        (done,) = mrbridge.translate(
            path, tmp_path / f"{name}.nii.gz", model=tiny_bundle, device="cpu"
        )
        made.append(io.read(done.output).voxels)
    assert_same(unpadded(made[1], widths), made[0], head().voxels > 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@quick
@given(widths=st.tuples(*[st.integers(0, 150)] * 4))
def test_black_margins_of_2d_images(
    dtype: type, tiny_bundle: Bundle, widths: tuple[int, ...]
) -> None:
    pixels = head((2.0, 2.0, 10.0)).voxels[:, :, 9:10]
    scan = Volume((pixels // 4).astype(dtype), None, contrast="T1w")
    around = [(widths[0], widths[1]), (widths[2], widths[3]), (0, 0)]
    made = [translated(volume, tiny_bundle) for volume in (scan, padded(scan, around))]
    assert_same(unpadded(made[1], around), made[0], pixels > 0)


@pytest.mark.filterwarnings("ignore:.* may be swapped")
@pytest.mark.parametrize("suffix", ["nii.gz", "png"])
def test_training_slices_are_the_same(suffix: str, tmp_path: Path) -> None:
    """The same head in a wide field of view, prepared."""
    stores = []
    for name, widths in (("plain", [(0, 0)] * 3), ("wide", [(9, 30), (21, 0), (12, 3)])):
        for contrast, seed in (("T1w", 0), ("T2w", 1)):
            for number in range(2):
                scan = head(air=8.0 * (suffix != "png"), seed=seed + 2 * number)
                if suffix == "png":
                    pixels = (scan.voxels[:, :, 17:18] // 4).astype(np.uint8)
                    scan = Volume(np.pad(pixels, [*widths[:2], (0, 0)]), None)
                else:
                    scan = padded(scan, widths)
                io.write(scan, tmp_path / name / contrast / f"{contrast}_{number}.{suffix}")
        stores.append(prepare(tmp_path / name, tmp_path / f"{name}-store"))
    for plain, wide in zip(stores[0].records(), stores[1].records(), strict=True):
        assert plain.data_sha256 == wide.data_sha256
        assert plain.recipe == wide.recipe


@pytest.mark.filterwarnings("ignore:.* as several contrasts")  # one image stands for both
def test_pairs_stay_aligned_although_each_scan_is_cropped_separately(tmp_path: Path) -> None:
    """A 2D image of which one contrast shows more: the same pixel is the same place in a pair."""
    from mrbridge.dataset.sampling import held_out_slices

    rng = np.random.default_rng(0)
    for number in range(8):
        pixels = np.zeros((60, 50, 1), np.uint8)
        pixels[12:40, 10:38, 0] = rng.integers(60, 200, (28, 28))
        more = pixels.copy()
        more[40:47, 10:38] = 90
        for contrast, shown in (("T1w", pixels), ("T2w", more)):
            io.write(
                Volume(shown, None),
                tmp_path / f"in/sub-{number}/anat/sub-{number}_{contrast}.png",
            )
    rows = [
        f"s{n},{c},in/sub-{n}/anat/sub-{n}_{c}.png,{'val' if n < 2 else 'train'}"
        for n in range(8)
        for c in ("T1w", "T2w")
    ]
    (tmp_path / "table.csv").write_text("\n".join(["subject,contrast,path,split", *rows]))
    store: Store = prepare(tmp_path / "table.csv", tmp_path / "store")
    held = held_out_slices(store, 64, 2)
    assert held.paired
    both = (held.source > -1) & (held.target > -1)
    assert both.sum() == (held.source > -1).sum()
    np.testing.assert_array_equal(held.source[both], held.target[both])


def test_the_shipped_model_translates_a_padded_head_equally() -> None:
    scan = head((4.0, 4.0, 24.0), air=6.0)
    widths = [(0, 40), (11, 5), (3, 4)]
    translator = Translator("shipped", "cpu", "axial")
    for to in ("T2w", "T1w"):
        made = [
            translator.translate(replace(volume, contrast=None), to).voxels
            for volume in (scan, padded(scan, widths))
        ]
        assert_same(unpadded(made[1], widths), made[0], head((4.0, 4.0, 24.0)).voxels > 0)
