"""Heads from label maps: geometry, tissues and what is refused."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from mrbridge.errors import InputError
from mrbridge.phantom import PhantomSettings, simulate
from mrbridge.phantom.labels import label_maps, labelled_head
from mrbridge.phantom.pathology import KINDS, Pathology
from mrbridge.phantom.subjects import varied_subject

SPACING = 4.0
NUCLEI = {  # label of the left one: centre (mm in the template), radii; the right one: label + 39
    11: ((13, 9, 11), (5, 10, 8)),
    12: ((26, 2, 1), (5, 12, 8)),
    13: ((19, -5, -1), (4, 8, 5)),
    10: ((12, -18, 8), (8, 12, 8)),
}


def ellipsoid(grid: np.ndarray, centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    return (((grid - centre) / radii) ** 2).sum(axis=-1) < 1


def made(skull: bool) -> np.ndarray:
    """Labels of a simple head, 2 mm, RAS, centre of the template at voxel (50, 65, 40)."""
    index = np.moveaxis(np.indices((100, 120, 90)), 0, -1)
    grid = (index - (50, 65, 40)) * 2.0
    labels = np.zeros(grid.shape[:3], np.int32)
    right = grid[..., 0] > 0
    shells = [((84, 104, 84), 511), ((82, 102, 82), 507), ((77, 97, 77), 515), ((71, 91, 71), 24)]
    for radii, label in shells if skull else ():
        labels[ellipsoid(grid, (0, -18, 8), radii)] = label
    labels[ellipsoid(grid, (0, -18, 8), (68, 86, 66))] = 3
    labels[ellipsoid(grid, (0, -18, 8), (62, 80, 60))] = 2
    for side in (-1, 1):
        labels[ellipsoid(grid, (side * 9, -10, 18), (6, 30, 9))] = 4
        for label, (centre, radii) in NUCLEI.items():
            labels[ellipsoid(grid, (side * centre[0], *centre[1:]), radii)] = label
    other = {2: 41, 3: 42, 4: 43} | {label: label + 39 for label in NUCLEI}
    for label, twin in other.items():
        labels[right & (labels == label)] = twin
    labels[ellipsoid(grid, (-30, -30, 25), (6, 6, 6))] = 25
    return labels


def saved(labels: np.ndarray, path: Path, turn: float = 0.0, shift: float = 0.0) -> Path:
    angle = np.deg2rad(turn)
    rotation = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * 2
    affine[:3, 3] = rotation @ (-100.0, -130.0, -80.0) + shift
    kind = nibabel.MGHImage if path.suffix == ".mgz" else nibabel.Nifti1Image
    nibabel.save(kind(labels.astype(np.int32), affine), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    saved(made(skull=True), folder / "whole.nii.gz", turn=12, shift=9.0)
    (folder / "fs" / "mri").mkdir(parents=True)
    labels = made(skull=False)  # as aparc+aseg: parcels in place of cortex and white matter
    for whole, parcel in ((3, 1005), (42, 2030), (2, 3001), (41, 14110 - 10_000)):
        labels[labels == whole] = parcel
    saved(labels, folder / "fs" / "mri" / "aseg.mgz")
    return folder


def maps_of(path: Path) -> dict[str, np.ndarray]:
    head = labelled_head(path, SPACING)
    return dict(zip(head.names, head.maps, strict=True))


def test_a_folder_gives_its_nifti_files_and_asegs(folder: Path, tmp_path: Path) -> None:
    assert [path.name for path in label_maps(folder)] == ["aseg.mgz", "whole.nii.gz"]
    with pytest.raises(InputError, match="no label maps"):
        label_maps(tmp_path)


def test_shares_are_shares_and_tissues_are_where_the_labels_are(folder: Path) -> None:
    maps = maps_of(folder / "whole.nii.gz")
    brain = maps["grey"] + maps["white"] + maps["fluid"]
    for name in ("grey", "white", "fluid", "bone", "lesion"):
        assert maps[name].min() > -1e-3
        assert maps[name].max() < 1 + 1e-3
    assert brain.max() < 1 + 1e-3
    assert maps["hull"][brain > 0.9].max() < 0  # the brain is within the skull
    assert (maps["hull"][maps["bone"] > 0.9] > -2).all()
    assert (maps["surface"][maps["bone"] > 0.9] < 0).all()
    lesion = ndimage.center_of_mass(maps["lesion"])
    grid = labelled_head(folder / "whole.nii.gz", SPACING).grid
    place = [axis[0] + step * SPACING for axis, step in zip(grid.axes, lesion, strict=True)]
    assert np.allclose(place, (-30, -30, 25), atol=2.5)


def test_a_map_without_a_skull_gets_that_of_the_template(folder: Path) -> None:
    maps = maps_of(folder / "fs" / "mri" / "aseg.mgz")
    assert "bone" not in maps
    brain = maps["grey"] + maps["white"] + maps["fluid"]
    assert (maps["surface"][brain > 0.9] < 0).all()


@pytest.mark.parametrize("number", [0, 1])
def test_simulated_subjects_take_turns_with_the_maps(folder: Path, number: int) -> None:
    settings = PhantomSettings(subjects=2, spacing_mm=SPACING, labels=folder, noise=0.0, bias=0.0)
    subject = simulate(settings, number)
    inside = subject.brain_mask.voxels > 0
    litres = inside.sum() * SPACING**3 / 1e6
    assert 1.2 < litres < 1.9  # an ellipsoid of half axes 68, 86, 66 mm has 1.6
    fluid = subject.t2w.voxels[inside] > np.quantile(subject.t2w.voxels[inside], 0.97)
    t1w = subject.t1w.voxels[inside]
    assert np.median(t1w[fluid]) < np.median(t1w)  # bright in T2w, dark in T1w


def test_what_is_not_a_label_map_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scan = nibabel.Nifti1Image(rng.random((20, 20, 20), np.float32), np.eye(4))
    nibabel.save(scan, tmp_path / "scan.nii.gz")
    with pytest.raises(InputError, match="not a label map"):
        labelled_head(tmp_path / "scan.nii.gz", SPACING)
    noisy = np.where(labels := made(skull=True), rng.integers(1, 200, labels.shape), 0)
    with pytest.raises(InputError, match="looks like a scan"):
        labelled_head(saved(noisy, tmp_path / "t1w.nii.gz"), SPACING)
    labels[0, 0, 0] = 2_000_000_000
    with pytest.raises(InputError, match="not a label map"):
        labelled_head(saved(labels, tmp_path / "large.nii.gz"), SPACING)
    labels = made(skull=True)
    labels[labels == 13] = 2
    with pytest.raises(InputError, match="no voxels of label 13"):
        labelled_head(saved(labels, tmp_path / "no_pallidum.nii.gz"), SPACING)
    (tmp_path / "aseg.mgz").write_bytes(b"\x1f\x8b junk")
    with pytest.raises(InputError, match="cannot be read"):
        labelled_head(tmp_path / "aseg.mgz", SPACING)


def test_fluid_in_a_lesion_is_bright_in_t2w_and_dark_in_t1w_wherever_it_lies(folder: Path) -> None:
    head = folder / "whole.nii.gz"
    signs, drawn = [], set()
    for index in range(24):
        subject = varied_subject(3, index, SPACING, labels=head, pathology=1.0)
        drawn |= set(subject.kinds)
        labels = subject.lesions.voxels
        t1w, t2w = (subject.canonical[c].voxels for c in ("T1w", "T2w"))
        healthy = (labels == 0) & (t1w > np.quantile(t1w[t1w > 0], 0.8))  # white matter
        for number, kind in enumerate(subject.kinds, start=1):
            inside = ndimage.binary_erosion(labels == number)
            if kind not in ("cyst", "chronic stroke", "cavity") or inside.sum() < 8:
                continue
            signs.append(
                np.median(t2w[inside]) > 1.5 * np.median(t2w[healthy])
                and np.median(t1w[inside]) < np.median(t1w[healthy])
            )
    assert len(signs) >= 5
    assert np.mean(signs) > 0.95
    assert len(drawn) >= 5


def test_every_kind_of_pathology_is_drawn_and_has_a_size_in_its_range(folder: Path) -> None:
    head = labelled_head(folder / "whole.nii.gz", SPACING)
    x, y, z = head.grid.mesh()
    where = np.stack(np.broadcast_arrays(x, y, z), axis=-1)
    rng = np.random.default_rng(1)
    kinds = set()
    for _ in range(160):
        one = Pathology.draw(rng, head)
        kinds.add(one.kind)
        depth = one.depth(where, head.grid)
        at_centre = np.linalg.norm(where - one.centre, axis=-1).argmin()
        assert depth.flat[at_centre] > 0
        smallest, largest = KINDS[one.kind].radius_mm
        radius = (np.count_nonzero(depth > 0) * SPACING**3 * 3 / (4 * np.pi)) ** (1 / 3)
        assert 0.5 * smallest - SPACING < radius < 2 * largest + SPACING, one.kind
    assert kinds == set(KINDS)


def test_a_turned_and_shifted_map_and_one_of_parcels_give_the_same_brain(folder: Path) -> None:
    parcels, moved = (maps_of(folder / name) for name in ("fs/mri/aseg.mgz", "whole.nii.gz"))
    for name in ("grey", "white", "fluid"):
        apart = np.abs(parcels[name] - moved[name])
        assert apart.mean() < 0.05 * moved[name].mean(), name
