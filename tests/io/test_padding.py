"""Constants that fill the surroundings of an image are background."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from tests import studies

import mrbridge
from mrbridge import io
from mrbridge.errors import InputError, MrbridgeWarning
from mrbridge.io.padding import filled, find_padding, partial_copy, refuse_wrapped, without_padding
from mrbridge.volume import Volume

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
GOLDEN = Path(__file__).parents[1] / "data" / "golden-bundle"
SHAPE = (48, 56, 20)
AFFINE = np.diag([4.0, 4.0, 8.0, 1.0])
PADDINGS = [-1000, -1024, -2000, -32768, 32767, 65535, 1e30, 3.4e38]


def distance() -> np.ndarray:
    """From the centre, 1 at the scalp."""
    i, j, k = (np.arange(size) - (size - 1) / 2 for size in SHAPE)
    return np.sqrt(
        (i[:, None, None] / 19) ** 2 + (j[None, :, None] / 23) ** 2 + (k[None, None] / 9) ** 2
    )


def head() -> np.ndarray:
    """A T1w-like head in noisy air, float32."""
    away, generator = distance(), np.random.default_rng(0)
    clean = np.select([away < 0.3, away < 0.6, away < 0.85, away < 1], [250, 900, 650, 1300], 0)
    noise = generator.normal(0, 15, (2, *SHAPE))
    return np.rint(np.hypot(clean + noise[0], noise[1])).astype(np.float32)


def where(part: str) -> np.ndarray:
    if part == "all around":
        return distance() > 1.15
    mask = np.zeros(SHAPE, bool)
    where: dict[str, slice | tuple[slice, ...]] = {
        "one side": np.s_[:3],
        "corner": np.s_[:4, :4, :4],
    }
    mask[where[part]] = True
    return mask


@pytest.mark.parametrize("part", ["all around", "one side", "corner"])
@pytest.mark.parametrize("value", PADDINGS)
def test_padding_becomes_background(value: float, part: str) -> None:
    image, padding = head(), where(part)
    voxels, notes = without_padding(np.where(padding, np.float32(value), image))
    assert (voxels[padding] == 0).all()
    apart = np.flatnonzero((voxels != image)[~padding])
    assert len(apart) < 0.001 * image.size
    assert f"{value:g}" in notes[0]


@pytest.mark.parametrize("value", [-4000, 32767])
@pytest.mark.parametrize("offset", [1000, -1024])
def test_padding_of_an_image_with_an_offset_becomes_its_air(offset: int, value: int) -> None:
    padding = where("all around")
    voxels, _ = without_padding(np.where(padding, value, head() + offset).astype(np.float32))
    assert abs(float(voxels[padding].max()) - offset) < 20


def test_two_constants_and_infinity() -> None:
    image = np.where(where("all around"), np.float32(-1000), head())
    image[:3], image[-3:] = 32767, np.inf
    voxels, notes = without_padding(image)
    assert 0 <= voxels.min() < voxels.max() < 2000
    assert len(notes) == 2


@pytest.mark.parametrize("fill", ["padding", 0])
@pytest.mark.parametrize("value", [-1000, 32767])
def test_interpolated_padding(value: int, fill: str | int) -> None:
    """Rotated after it was padded: values in between, at its edges."""
    padded = np.where(where("all around"), np.float32(value), head())
    turned = ndimage.rotate(
        padded, 15, reshape=False, order=1, cval=value if fill == "padding" else 0
    )
    voxels, _ = without_padding(turned)
    assert voxels.min() > -200
    assert voxels.max() < 2000


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image,
        lambda image: image.astype(np.int16),
        lambda image: image + 1000,
        lambda image: image - 1024,
        lambda image: image * 1e-7,
        lambda image: (image - image.mean()) / image.std(),
        lambda image: image / image.max() * 2 - 1,
        lambda image: np.where(distance() < 0.9, image, 0),
        lambda image: np.where(distance() < 0.9, (image - image.mean()) / image.std(), 0),
        lambda image: np.where(distance() < 0.9, image / image.max() * 2 - 1, -1),
        lambda image: np.minimum(image, 700),
        lambda image: np.where(distance() < 0.3, 30000, image) * (np.indices(SHAPE)[0] % 12 == 0),
        lambda image: (distance() < 0.9).astype(np.uint8) * 255,
        lambda image: np.select([distance() < 0.3, distance() < 0.6], [4, 2], -1),
    ],
)
def test_other_images_stay_as_they_are(change) -> None:
    image = change(head())
    voxels, notes = without_padding(image)
    assert voxels is image
    assert notes == []


def test_a_few_outliers_are_not_padding_and_do_not_hide_it() -> None:
    image = head()
    image[20, 20, 10], image[21, 22, 9], image[5, 5, 5] = 30000, 32000, -5000
    assert find_padding(image) is None
    padding = where("all around") & (image > -5000)
    found = find_padding(np.where(padding, np.float32(-1000), image))
    assert found is not None
    assert (found >= padding).all()


def test_one_voxel_is_named_in_the_singular() -> None:
    voxels = np.random.default_rng(0).normal(100, 10, (6, 6, 6)).astype(np.float32)
    voxels[2, 2, 2] = np.nan
    assert without_padding(voxels)[1] == ["1 voxel was NaN or infinite and was replaced"]
    voxels[3, 3, 3] = np.inf
    assert without_padding(voxels)[1] == ["2 voxels were NaN or infinite and were replaced"]


def test_padding_that_is_known_is_filled() -> None:
    """As DICOM tells it by PixelPaddingValue."""
    image = head().astype(np.uint16)
    image[:3] = 63536
    voxels, background = filled(image, image == 63536)
    assert background == 0
    assert voxels.dtype == np.uint16
    assert (voxels[:3] == 0).all()
    np.testing.assert_array_equal(voxels[5:], image[5:])


def translated(image: np.ndarray, folder: Path) -> np.ndarray:
    nib.save(nib.Nifti1Image(image.astype(np.float32), AFFINE), folder / "one_T1w.nii")
    mrbridge.translate(folder / "one_T1w.nii", folder / "one_T2w.nii", model=GOLDEN)
    return io.read(folder / "one_T2w.nii").voxels


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    return translated(head(), tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("value", [-1000, np.nan])
def test_a_padded_scan_is_translated_as_without_padding(
    value: float, plain: np.ndarray, tmp_path: Path
) -> None:
    padding = where("all around")
    with pytest.warns(MrbridgeWarning, match="padding|NaN"):
        padded = translated(np.where(padding, value, head()), tmp_path)
    inside = distance() < 0.85
    assert np.corrcoef(plain[inside], padded[inside])[0, 1] > 0.99
    assert (padded[padding] == 0).all()


@pytest.mark.parametrize(
    "name", ["open-ms-mni/patient07/T1.nii.gz", "open-ms-raw/patient01/study1_T2W.nii.gz"]
)
def test_real_scans_are_not_padded(name: str) -> None:
    if not (DATA / name).exists():
        pytest.skip("the development data is not here")
    assert find_padding(np.asanyarray(nib.load(DATA / name).dataobj)) is None


@pytest.mark.parametrize("stripped", [False, True])
@pytest.mark.parametrize("part", ["end", "beginning", "hole", "slice", "whole slices"])
def test_parts_that_were_not_written(part: str, stripped: bool) -> None:
    image = np.where(distance() < 1, head(), 0) if stripped else head() + 1
    flat, plane = image.ravel(order="F"), SHAPE[0] * SHAPE[1]
    cut = 9 * plane + 28 * SHAPE[0] + 20  # in the middle of a row of slice 10 of 20
    flat[
        {
            "end": np.s_[cut:],
            "beginning": np.s_[:cut],
            "hole": np.s_[cut : cut + 3 * plane],
            "slice": np.s_[cut : 10 * plane],
            "whole slices": np.s_[10 * plane :],
        }[part]
    ] = 0
    damaged = flat.reshape(SHAPE, order="F")
    (note,) = partial_copy(damaged)
    expected = {
        "beginning": "slice 10 of 20 is 0 up to its middle",
        "whole slices": "slices 11 to 20 are 0, and slice 10 is as full",
    }
    assert note.startswith(expected.get(part, "slice 10 of 20 is 0 from its middle"))
    assert "copied only in part" in note


def test_a_dicom_file_that_was_copied_in_part(tmp_path: Path) -> None:
    made = studies.datasets(Volume(head().astype(np.uint16) + 1, AFFINE), **studies.T1W)
    pixels = made[9].PixelData
    made[9].PixelData = pixels[:2600] + bytes(len(pixels) - 2600)
    made[9]["PixelData"].VR = "OW"
    studies.save(tmp_path / "study", made)
    with pytest.warns(MrbridgeWarning, match="series 5: slice 10 of 20 is 0 from its middle"):
        io.read(tmp_path / "study")


@pytest.mark.parametrize("brightest", [36_000, 45_000, 65_535])
@pytest.mark.parametrize("stripped", [False, True])
@pytest.mark.parametrize("kind", ["nifti", "dicom", "object"])
def test_unsigned_integers_that_are_declared_as_signed(
    kind: str, stripped: bool, brightest: int, tmp_path: Path
) -> None:
    image = head() * (distance() < 1 if stripped else 1)
    voxels = (image / image.max() * brightest).astype(np.uint16).view(np.int16)
    volume, path = Volume(voxels, AFFINE), tmp_path
    if kind == "nifti":
        path = io.write(volume, tmp_path / "wrapped.nii")
    elif kind == "dicom":
        stored = {"PixelRepresentation": 1, "BitsStored": 16, "HighBit": 15}
        studies.write_series(tmp_path, volume, **stored)
    with pytest.raises(InputError, match="wrap around at 32767") as caught:
        mrbridge.translate(volume, model=GOLDEN) if kind == "object" else io.read(path)
    assert "Convert it again, as uint16" in caught.value.remedy


@pytest.mark.parametrize(
    "change",
    [
        lambda image: np.where(where("one side") | (distance() > 1), -32768, 25 * image),
        lambda image: 40 * (image - 400),  # inversion recovery with its sign
        lambda image: 10 * image + np.random.default_rng(1).normal(0, 9000, SHAPE),
    ],
)
def test_signed_integers_are_read(change: Callable[[np.ndarray], np.ndarray]) -> None:
    voxels = np.clip(change(head()), -32768, 32767).astype(np.int16)
    assert voxels.min() < -14000
    refuse_wrapped(voxels)


def test_parts_of_the_field_of_view_that_are_empty() -> None:
    image = head() + 1
    box, slab, margin, rows = (image.copy(order="F") for _ in range(4))
    box[:, 30:, :8] = 0  # a face that was removed
    slab[:, :, :3] = slab[:, :, 17:] = 0
    margin[:, :, :5] = margin[:, :, 15:] = 0
    rows[:, 28:, 9] = rows[:, :, 10:12] = 0  # an oblique field of view ends with whole rows
    stripped = np.where(distance() < 1, image, 0)
    top = stripped[:, :, :18]
    tilted = ndimage.rotate(top[:, :, 4:], 8, (1, 2), reshape=False, order=1)
    for whole in (image, box, slab, margin, rows, top, top[:, :, ::-1], tilted, np.zeros(SHAPE)):
        assert partial_copy(whole) == []
