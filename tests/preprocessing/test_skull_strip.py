"""Brain masks: found, recorded, taken from files, and refused if they cannot be a brain."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from mrbridge import io
from mrbridge.dataset.prepare import prepare
from mrbridge.dataset.settings import PrepareSettings
from mrbridge.dataset.store import Store
from mrbridge.errors import InputError, SettingsError, SomeScansFailed
from mrbridge.preprocessing import skull_strip as module
from mrbridge.preprocessing.foreground import Crop, Head
from mrbridge.preprocessing.preprocess import preprocess
from mrbridge.preprocessing.settings import PreprocessSettings, check_pattern
from mrbridge.preprocessing.skull_strip import find_brain, implausible, mask_path, volume_l
from mrbridge.volume import Volume

AFFINE = np.diag([-4.0, 4, 4, 1])
AFFINE[:3, 3] = [100, -112, -80]
SHAPE = (50, 56, 40)


def ball(radii_mm: tuple[float, float, float], centre: tuple[float, ...] = (0, 0, 0)) -> np.ndarray:
    """An ellipsoid on the grid of the tests, (i, j, k)."""
    places = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1)
    mm = places @ AFFINE[:3, :3].T + AFFINE[:3, 3] - centre
    return ((mm / radii_mm) ** 2).sum(-1) < 1


BRAIN = ball((66, 84, 62))  # 1.4 litres


def make_head(seed: int = 0, contrast: str = "T1w", stripped: bool = False) -> Volume:
    """Brain of two tissues, dark skull, bright skin, noisy air."""
    rng = np.random.default_rng(seed)
    values = np.select(
        [ball((50, 60, 40)), BRAIN, ball((74, 92, 70)), ball((82, 100, 76))],
        [700.0, 500.0, 60.0, 1200.0],
        20.0,
    )
    values = np.abs(values + rng.normal(0, 10, SHAPE)) + 1
    values = values * BRAIN if stripped else values
    return Volume(values.astype(np.int16), AFFINE, contrast=contrast)


def mask_of(inside: np.ndarray) -> Volume:
    return Volume(inside.astype(np.uint8), AFFINE)


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Three subjects with whole heads and masks."""
    root = tmp_path / "bids"
    for number in range(1, 4):
        for contrast in ("T1w", "T2w"):
            name = f"sub-{number:02}/anat/sub-{number:02}_{contrast}.nii.gz"
            io.write(make_head(number, contrast), root / name)
        io.write(
            mask_of(BRAIN), root / f"sub-{number:02}/anat/sub-{number:02}_desc-brain_mask.nii.gz"
        )
    (root / "dataset_description.json").write_text('{"Name": "made by a test"}')
    return root


@pytest.mark.slow
def test_the_template_moved_and_resized_is_found() -> None:
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    template, truth = load_mni152_template(4), np.asarray(load_mni152_brain_mask(4).dataobj) > 0
    values = np.asarray(template.dataobj, np.float32) * 800 + 5
    angle = np.radians(10)
    turn = [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    moved = np.eye(4)
    moved[:3, :3] = 0.93 * np.array(turn)
    moved[:3, 3] = [8, -15, 40]
    head = Volume(values, moved @ template.affine)
    found = module.brain_by_template(Head(head))
    assert 2 * np.count_nonzero(found & truth) / (found.sum() + truth.sum()) > 0.95


def test_implausible_brain_masks_are_named() -> None:
    head = make_head()
    assert implausible(BRAIN, Head(head)) is None
    assert volume_l(BRAIN, head) == pytest.approx(4 / 3 * np.pi * 66 * 84 * 62 / 1e6, rel=0.03)
    for inside, why in (
        (ball((45, 50, 40)), "litres"),
        (ball((90, 100, 76)), "litres"),
        (np.zeros(SHAPE, bool), "litres"),
        (ball((50, 84, 62), (-46, 0, 0)) | ball((20, 40, 62), (80, 0, 0)), "pieces"),
        (ball((60, 70, 55), (0, 38, 0)), "centre is 3|centre is 4"),
        (ball((66, 84, 62), (0, 0, 52)), "top of the field of view"),
    ):
        reason = implausible(inside, Head(head))
        assert reason is not None, why
        assert any(part in reason for part in why.split("|")), reason


def test_a_mask_on_another_grid_is_resampled() -> None:
    head = make_head()
    flipped = Volume(BRAIN[::-1].astype(np.uint8), AFFINE @ np.diag([-1, 1, 1, 1.0]))
    flipped.affine[:3, 3] = (AFFINE @ [SHAPE[0] - 1, 0, 0, 1])[:3]
    np.testing.assert_array_equal(find_brain(Head(head), "mask", flipped), BRAIN)


def test_probabilities_and_masks_resampled_by_splines() -> None:
    head, edge = make_head(), ndimage.gaussian_filter(BRAIN.astype(np.float32), 1.5)
    for mask in (edge, edge * 0.8, BRAIN - 0.1 * (edge - BRAIN), BRAIN * 17.0, BRAIN * 255):
        found = find_brain(Head(head), "mask", Volume(mask.astype(np.float32), AFFINE))
        assert np.mean(found != BRAIN) < 0.005
    for scan, why in ((head, "intensities of a scan"), (edge - 0.5, "negative values")):
        wrong = scan if isinstance(scan, Volume) else Volume(scan, AFFINE)
        with pytest.raises(InputError, match=f"brain mask is not a mask: it has.*{why}"):
            find_brain(Head(head), "mask", wrong)


def test_a_stripped_brain_is_its_own_mask() -> None:
    np.testing.assert_array_equal(find_brain(Head(make_head(stripped=True)), "mask"), BRAIN)
    with pytest.raises(InputError, match="no brain mask"):
        find_brain(Head(make_head()), "mask")


def test_2d_images_are_refused() -> None:
    with pytest.raises(InputError, match="2D image"):
        find_brain(Head(Volume(np.ones((8, 8, 1), np.uint8), None)), "auto")


def test_outside_is_black_and_the_brain_keeps_its_range() -> None:
    head, settings = make_head(), PreprocessSettings(spacing_mm=None, brain="mask")
    whole = Crop.whole(head)
    standard = preprocess(head, settings, mask_of(BRAIN), crop=whole)
    single = preprocess(make_head(stripped=True), PreprocessSettings(spacing_mm=None), crop=whole)
    np.testing.assert_array_equal(standard.brain, BRAIN)
    assert (standard.slices[~standard.foreground] == -1).all()
    np.testing.assert_allclose(standard.slices, single.slices, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.* may be swapped")
@pytest.mark.filterwarnings("ignore:.* in several splits")
class TestPrepare:
    def test_the_store_holds_brains_and_their_volume(self, cohort: Path, tmp_path: Path) -> None:
        wanted = PrepareSettings().changed({"standard": {"brain": "mask"}})
        plain, store = prepare(cohort, tmp_path / "plain"), prepare(cohort, tmp_path / "s", wanted)
        for before, record in zip(plain.records(), store.records(), strict=True):
            assert before.brain_litres is None
            assert record.brain_litres == pytest.approx(1.44, rel=0.03)
            assert (store.slices(record) == -1).mean() > (plain.slices(before) == -1).mean() + 0.2
        assert Store.open(tmp_path / "s").manifest.settings.standard.brain == "mask"

    def test_another_mask_gives_another_array(self, cohort: Path, tmp_path: Path) -> None:
        wanted = PrepareSettings().changed({"standard": {"brain": "mask"}})
        first = {r.id: r.data_sha256 for r in prepare(cohort, tmp_path / "s", wanted).records()}
        smaller = ball((60, 80, 60))
        io.write(mask_of(smaller), cohort / "sub-02/anat/sub-02_desc-brain_mask.nii.gz")
        again = {r.id: r.data_sha256 for r in prepare(cohort, tmp_path / "s", wanted).records()}
        assert {id for id in first if first[id] != again[id]} == {"sub-02_T1w", "sub-02_T2w"}

    def test_the_implausible_is_listed_and_the_others_are_prepared(
        self, cohort: Path, tmp_path: Path
    ) -> None:
        io.write(mask_of(ball((40, 40, 40))), cohort / "sub-02/anat/sub-02_desc-brain_mask.nii.gz")
        wanted = PrepareSettings().changed({"standard": {"brain": "mask"}})
        with pytest.raises(SomeScansFailed, match=r"implausible: 0\.\d+ litres"):
            prepare(cohort, tmp_path / "s", wanted)
        store = Store.open(tmp_path / "s")
        assert {record.subject for record in store.records()} == {"01", "03"}
        assert len(store.manifest.failures) == 2

    def test_auto_uses_the_template(
        self, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "brain_by_template", lambda volume: BRAIN)
        store = prepare(
            cohort, tmp_path / "s", PrepareSettings().changed({"standard": {"brain": "auto"}})
        )
        assert all(record.brain_litres for record in store.records())


class TestPlaces:
    def test_masks_are_found_next_to_the_scan_in_derivatives_and_by_pattern(
        self, tmp_path: Path
    ) -> None:
        pattern = PreprocessSettings().brain_mask
        scan = tmp_path / "sub-1/ses-2/anat/sub-1_ses-2_run-1_T1w.nii.gz"
        assert mask_path(scan, pattern) is None
        below = tmp_path / "derivatives/tool/sub-1/ses-2/anat"
        for place in (below, scan.parent):
            place.mkdir(parents=True)
            (place / "sub-1_ses-2_run-1_desc-brain_mask.nii.gz").touch()
            found = mask_path(scan, pattern)
            assert found is not None
            assert found.parent == place
        (scan.parent / "masks").mkdir()
        own = scan.parent / "masks/sub-1_ses-2_run-1_T1w_bet.nii"
        own.touch()
        assert mask_path(scan, "masks/{stem}_bet.nii") == own

    @pytest.mark.parametrize(
        "pattern",
        [
            "",
            "mask.nii",
            "{subject}_mask.nii",
            "/m/{stem}.nii",
            "{",
            "{0}",
            "{stem:>3000000000}",
            "{stem!r}",
            "{stem.x}",
            "{stem}\0",
        ],
    )
    def test_invalid_patterns_are_refused(self, pattern: str) -> None:
        with pytest.raises(SettingsError, match="brain masks are"):
            check_pattern(pattern)


PROGRAM = """#!{python}
import shutil, sys
args = sys.argv[1:]
assert args[0] == "-i" and args[2] == "-o" and "-device" in args, args
assert "--save_bet_mask" in args and "--no_bet_image" in args, args
{action}
"""
COPY = 'shutil.copy({mask!r}, args[3].replace(".nii.gz", "_bet.nii.gz"))'

Install = Callable[[str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a program called hd-bet, which does this, where programs are looked for."""

    def make(action: str) -> None:
        program = tmp_path / "bin/hd-bet"
        program.parent.mkdir(exist_ok=True)
        program.write_text(PROGRAM.format(python=sys.executable, action=action))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(program.parent))

    return make


class TestHdBet:
    def test_its_mask_is_used(self, install: Install, tmp_path: Path) -> None:
        io.write(mask_of(BRAIN), tmp_path / "known.nii.gz")
        install(COPY.format(mask=str(tmp_path / "known.nii.gz")))
        np.testing.assert_array_equal(find_brain(Head(make_head()), "hd-bet"), BRAIN)

    def test_its_mask_must_be_plausible(self, install: Install, tmp_path: Path) -> None:
        io.write(mask_of(ball((30, 30, 30))), tmp_path / "known.nii.gz")
        install(COPY.format(mask=str(tmp_path / "known.nii.gz")))
        with pytest.raises(InputError, match="implausible"):
            find_brain(Head(make_head()), "hd-bet")

    def test_its_error_is_reported(self, install: Install) -> None:
        install('print("out of memory", file=sys.stderr); sys.exit(3)')
        with pytest.raises(InputError, match=r"wrote no mask \(out of memory\)"):
            find_brain(Head(make_head()), "hd-bet")
        install("pass")
        with pytest.raises(InputError, match=r"wrote no mask \(exit code 0\)"):
            find_brain(Head(make_head()), "hd-bet")

    def test_its_absence_is_reported_first(
        self, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        wanted = PrepareSettings().changed({"standard": {"brain": "hd-bet"}})
        with pytest.raises(SettingsError, match="not installed"):
            prepare(cohort, tmp_path / "s", wanted)
        assert not (tmp_path / "s").exists()


@pytest.mark.filterwarnings("ignore:.* as several contrasts")  # the scans differ in place only
def test_registered_scans_keep_their_masks(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With registration, a mask in the place of the T2w scan ends on the grid of the T1w scan."""
    from mrbridge.preprocessing import registration
    from mrbridge.preprocessing.registration import Registration

    shift = np.eye(4)
    shift[0, 3] = 8.0  # two voxels
    for number in (1, 2, 3):
        path = cohort / f"sub-{number:02}/anat/sub-{number:02}_T2w.nii.gz"
        scan = io.read(path)
        io.write(replace(scan, affine=np.linalg.inv(shift) @ scan.affine, header=None), path)
        own = Volume(BRAIN.astype(np.uint8), np.asarray(np.linalg.inv(shift) @ AFFINE, np.float64))
        io.write(own, path.with_name(f"sub-{number:02}_T2w_mask.nii.gz"))
        io.write(mask_of(BRAIN), path.with_name(f"sub-{number:02}_T1w_mask.nii.gz"))
    known = Registration(shift, "rigid", 0.4, 0.8, 8.0, 0.1, 9, 9, 1.0)
    monkeypatch.setattr(registration, "register", lambda *_: known)
    wanted = PrepareSettings().changed(
        {
            "registration": "rigid",
            "standard": {"brain": "mask", "brain_mask": "{stem}_mask.nii.gz"},
        }
    )
    store = prepare(cohort, tmp_path / "s", wanted)
    for source, target, shared in (p for s in ("train", "val", "test") for p in store.pairs(s)):
        one, other = store.slices(source), store.slices(target)
        for i, k in shared:
            assert ((one[i] == -1) != (other[k] == -1)).mean() < 0.005
