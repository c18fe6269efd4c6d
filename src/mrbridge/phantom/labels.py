"""Heads from label maps in FreeSurfer's numbering: `aseg.mgz`, or training maps of SynthSeg.

The numbers are those of `FreeSurferColorLUT.txt`
(https://surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/AnatomicalROI/FreeSurferColorLUT); those from
502 on, for what surrounds the brain, are SynthSeg's (Billot et al. 2023,
doi:10.1016/j.media.2023.102789), which names none of them: what they are is read off the maps.

A map without labels around the brain gets the skull and the face of the template.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray
from scipy import ndimage

from mrbridge import io
from mrbridge.errors import InputError
from mrbridge.phantom.fields import Array, Grid
from mrbridge.phantom.head import (
    COARSE,
    NATIVE,
    Head,
    HeadMaps,
    eyeballs,
    filled,
    hull_around,
    lesion_places,
    resample,
    sample,
    surroundings,
)
from mrbridge.phantom.signals import IRON_OF_CORTEX, IRON_OF_NUCLEI

_CORTEX = (3, 42, 8, 47, 17, 53, 18, 54, 19, 55, 20, 56)  # with hippocampus, amygdala, cerebellum
_WHITE = (2, 41, 7, 46, 85, 77, 78, 79, 80, 81, 82, *range(251, 256))
_LESIONS = (25, 57, 77)  # 25 and 57 in SynthSeg's maps, 77 in an aseg
_VENTRICLES = (4, 43, 5, 44, 14, 15, 72)
_PLEXUS = (31, 63, 136, 137, 163, 164)
_PARTLY_WHITE: Mapping[int, float] = {
    # Where the mean of the structure in T1w is between that of cortex (0) and white matter (1), by
    # SynthSR's prior_means_t1_hr (Iglesias et al. 2023, doi:10.1126/sciadv.add3607).
    **dict.fromkeys((10, 49), 0.61),  # thalamus
    **dict.fromkeys((11, 50), 0.23),  # caudate
    **dict.fromkeys((12, 51), 0.51),  # putamen
    **dict.fromkeys((13, 52), 0.99),  # pallidum
    **dict.fromkeys((26, 58), 0.21),  # accumbens
    **dict.fromkeys((28, 60), 0.82),  # ventral diencephalon
    **dict.fromkeys((16, 512), 0.52),  # brainstem, spinal cord
}
_IRON: Mapping[int, float] = {
    **dict.fromkeys((10, 49), IRON_OF_NUCLEI["thalamus"]),
    **dict.fromkeys((11, 50), IRON_OF_NUCLEI["caudate"]),
    **dict.fromkeys((12, 51), IRON_OF_NUCLEI["putamen"]),
    **dict.fromkeys((13, 52), IRON_OF_NUCLEI["pallidum"]),
    # Red nucleus and substantia nigra are part of it, and of the brainstem: means are a choice.
    **dict.fromkeys((28, 60), 0.5 * IRON_OF_NUCLEI["red_nucleus"]),
    16: 1.5 * IRON_OF_CORTEX,
}
_BONE, _MARROW = (515, 165, 259), (516,)
_SINUS, _ARTERY, _EYE = (514,), (502,), (506,)

_CENTRES = {  # RAS+ mm in the template, of the left structure; the right one is its mirror image
    (11, 50): (13.0, 9.0, 11.0),
    (12, 51): (26.0, 2.0, 1.0),
    (13, 52): (19.0, -5.0, -1.0),
    (10, 49): (12.0, -18.0, 8.0),
}
_EDGE_MM = 0.5  # standard deviation of the smoothing that makes partial volumes of labels
_UNIFORM = 0.3  # the least share of voxels in a label map that equal their neighbours
_CLOSING_MM = 8.0  # fissures up to twice as wide are part of the brain mask


def label_maps(folder: Path) -> list[Path]:
    """The label maps in a folder and its subfolders, in order: NIfTI files, and `aseg.mgz`;
    InputError if there are none."""
    patterns = ("*.nii", "*.nii.gz", "aseg.mgz")
    found = sorted(path for pattern in patterns for path in folder.rglob(pattern))
    if not found:
        raise InputError(
            "holds no label maps",
            path=folder,
            remedy="Name a folder of NIfTI files, or of FreeSurfer subjects with aseg.mgz.",
        )
    return found


@lru_cache(maxsize=2)
def labelled_head(path: Path, spacing_mm: float) -> Head:
    """The head of a label map, moved (not scaled) into the template's space.

    Raises:
        InputError: it is not a label map in FreeSurfer's numbering of a whole brain.
    """
    return _maps(path).on(spacing_mm)


def _maps(path: Path) -> HeadMaps:
    labels, affine = _read(path)
    where = _voxels_of_template(labels, affine, path)
    crop, where = _cropped(labels, where)
    space = _Space(crop, np.abs(np.linalg.det(affine[:3, :3])) ** (1 / 3), where)
    tissue, white, ventricles, iron, plexus, lesion = space.shares(
        dict.fromkeys((*_CORTEX, *_WHITE, *_LESIONS, *_PARTLY_WHITE), 1.0),
        {**dict.fromkeys((*_WHITE, *_LESIONS), 1.0), **_PARTLY_WHITE},
        dict.fromkeys(_VENTRICLES, 1.0),
        {label: value - IRON_OF_CORTEX for label, value in _IRON.items()},
        dict.fromkeys(_PLEXUS, 1.0),
        dict.fromkeys(_LESIONS, 1.0),
    )
    inside = _closed(tissue + ventricles > 0.5)
    maps = {
        "grey": tissue - white,
        "white": white,
        "fluid": (1 - tissue) * inside,
        "iron": iron,
        "plexus": plexus,
        "lesion": lesion,
    }
    placed = {name: (values, NATIVE) for name, values in maps.items()}
    placed |= _around(space, inside)
    hull = resample(*placed["hull"], COARSE)
    white, ventricles = (resample(one, NATIVE, COARSE) for one in (white, ventricles))
    return HeadMaps(placed, *lesion_places(ventricles > 0.5, white, hull))


def _read(path: Path) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """The labels (i, j, k), those of parcels as those of the whole, and the affine; InputError if
    it cannot be read, or does not hold labels."""
    if path.suffix == ".mgz":
        try:
            image = nibabel.load(path)
            voxels, affine = np.asarray(image.dataobj), image.affine
        except (OSError, EOFError, ValueError, ImageFileError) as error:
            raise InputError(
                f"cannot be read ({error})", path=path, remedy="Check the file."
            ) from None
    else:
        volume = io.read(path)
        voxels, affine = volume.voxels, volume.affine
    is_3d = affine is not None and voxels.ndim == 3
    if not is_3d or (voxels != np.rint(voxels)).any() or not 0 <= voxels.min() < voxels.max() < 1e5:
        raise InputError(
            "is not a label map",
            path=path,
            remedy="Give volumes of whole numbers in FreeSurfer's numbering.",
        )
    labels = _without_parcels(voxels.astype(np.int32))
    inside = (labels[1:] > 0) & (labels[:-1] > 0)
    if inside.any() and (labels[1:] == labels[:-1])[inside].mean() < _UNIFORM:
        raise InputError(
            "looks like a scan, not a label map: most neighbouring voxels differ",
            path=path,
            remedy="Give label maps only.",
        )
    return labels, affine


class _Space:
    """A label map, and where each voxel of `NATIVE` lies in it.

    Args:
        labels: (i, j, k).
        voxel_mm: edge of a voxel, mm.
        where: (x, y, z, 3) voxel indices.
    """

    def __init__(self, labels: NDArray[np.int32], voxel_mm: float, where: Array) -> None:
        self.labels, self._where = labels, where
        self._sigma = _EDGE_MM / voxel_mm
        x, y, z = (np.arange(n, dtype=np.float64) for n in labels.shape)
        self._grid = Grid((x, y, z))

    def shares(self, *tables: Mapping[int, float]) -> Array:
        """Sums of the labels' shares in each voxel of `NATIVE`, with partial volumes: (table, x, y,
        z); 0 beyond the map."""
        maps = np.zeros((len(tables), *self.labels.shape), np.float32)
        for one, shares in zip(maps, tables, strict=True):
            table = np.zeros(int(self.labels.max()) + 1, np.float32)
            for label, share in shares.items():
                if label < len(table):
                    table[label] = share
            ndimage.gaussian_filter(table[self.labels], self._sigma, truncate=3, output=one)
        return sample(maps, self._grid, self._where)


def _around(space: _Space, brain: NDArray[np.bool_]) -> dict[str, tuple[Array, Grid]]:
    """The maps of what surrounds the brain, of the labels or, if there are none, the template's."""
    mask = resample(brain.astype(np.float32), NATIVE, COARSE) > 0.5
    if np.isin(space.labels, _BONE).sum() <= 100:  # a few voxels are not a skull
        nothing = np.zeros(NATIVE.shape, np.float32)
        return surroundings(hull_around(mask)) | {"sinus": (nothing, NATIVE)}
    parts = (range(1, space.labels.max() + 1), (*_BONE, *_MARROW), (24, *_SINUS, 122, 257), _EYE)
    shares = (dict.fromkeys(labels, 1.0) for labels in (*parts, _ARTERY, _SINUS, _MARROW))
    anything, skull, fluid, eyes, artery, sinus, marrow = space.shares(*shares)
    head = filled(_closed(_largest(anything > 0.5)))
    within = brain | (fluid > 0.5)
    within = filled(_closed(_largest(within)) & (skull < 0.5) | brain)
    eye = eyes > 0.5
    air = head & ~within & (anything < 0.5)
    return {
        "hull": (_signed_distance(within), NATIVE),
        "surface": (_signed_distance(head), NATIVE),
        "air": (ndimage.gaussian_filter(air.astype(np.float32), 0.5), NATIVE),
        "eye": (_signed_distance(eye), NATIVE) if eye.any() else (eyeballs(), COARSE),
        "artery": (artery, NATIVE),
        "sinus": (sinus, NATIVE),
        "bone": (skull, NATIVE),
        "marrow": (marrow, NATIVE),
    }


def _without_parcels(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Labels of parcels of the cortex and its white matter (aparc+aseg) as those of the whole."""
    thousands = np.where(labels >= 10_000, labels // 1000 - 10, labels // 1000)
    whole = np.array([0, 3, 42, 2, 41], np.int32)
    is_parcel = (thousands >= 1) & (thousands <= 4)
    return np.where(is_parcel, whole[np.where(is_parcel, thousands, 0)], labels)


def _voxels_of_template(
    labels: NDArray[np.int32], affine: NDArray[np.float64], path: Path
) -> Array:
    """Voxel index in the label map of each voxel of `NATIVE`, (x, y, z, 3).

    The rotation and shift that bring the centres of the nuclei onto those of the template, by least
    squares (Arun et al. 1987, doi:10.1109/TPAMI.1987.4767965).
    """
    ours, theirs = [], []
    for (left, right), centre in _CENTRES.items():
        for label, side in ((left, -1), (right, 1)):
            index = np.argwhere(labels == label)
            if not len(index):
                raise InputError(
                    f"has no voxels of label {label}",
                    path=path,
                    remedy="Give label maps of whole brains in FreeSurfer's numbering.",
                )
            ours.append(affine[:3, :3] @ index.mean(axis=0) + affine[:3, 3])
            theirs.append(np.multiply(centre, (side, 1, 1)))
    a, b = np.array(ours), np.array(theirs)
    middle_a, middle_b = a.mean(axis=0), b.mean(axis=0)
    u, _, v = np.linalg.svd((b - middle_b).T @ (a - middle_a))
    rotation = v.T @ np.diag([1, 1, np.sign(np.linalg.det(v.T @ u.T))]) @ u.T
    matrix = np.linalg.inv(affine[:3, :3])
    turned = (matrix @ rotation).astype(np.float32)
    start = matrix @ (middle_a - rotation @ middle_b - affine[:3, 3])
    return NATIVE.places() @ turned.T + start.astype(np.float32)


def _cropped(labels: NDArray[np.int32], where: Array) -> tuple[NDArray[np.int32], Array]:
    """The box of a label map that has labels, with a border of zeros."""
    box = ndimage.find_objects((labels > 0).astype(np.uint8))[0]
    start = np.array([part.start - 1 for part in box], np.float32)
    return np.pad(labels[box], 1), where - start


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part."""
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return parts == sizes.argmax()


def _closed(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask closed by a ball; what it shows at the border of the grid continues beyond."""
    reach = int(_CLOSING_MM) + 1
    padded = np.pad(mask, reach, mode="edge")
    grown = _distance(padded) < _CLOSING_MM
    kept = _distance(~grown) > _CLOSING_MM
    return (kept | padded)[reach:-reach, reach:-reach, reach:-reach]


def _signed_distance(mask: NDArray[np.bool_]) -> Array:
    """Signed distance (mm, negative inside) to the edge of a mask on `NATIVE`."""
    outside, inside = (_distance(one) for one in (mask, ~mask))
    distance = np.where(mask, 0.5 - inside, outside - 0.5)
    return ndimage.gaussian_filter(distance, 0.7).astype(np.float32)


def _distance(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance (mm) to the nearest voxel of a mask on `NATIVE`; quicker than SciPy's."""
    import SimpleITK as sitk  # takes a moment

    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    signed = sitk.SignedMaurerDistanceMap(image, squaredDistance=True)
    return np.sqrt(np.maximum(sitk.GetArrayFromImage(signed), 0), dtype=np.float64)
