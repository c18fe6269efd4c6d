"""Usual, unusual or refused: by what an image shows, and where the verdict is written."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.research import input_check as study

from mrbridge import io, translate
from mrbridge.bundle import Bundle
from mrbridge.errors import InputError, ScanRefused, SomeScansFailed
from mrbridge.inference.appearance import Appearance
from mrbridge.inference.input_check import Sign, check_image, signs, verdict_of
from mrbridge.phantom import PhantomSettings, SimulatedSubject, simulate
from mrbridge.preprocessing.resample import moved
from mrbridge.volume import Volume


@pytest.fixture(scope="module")
def subject() -> SimulatedSubject:
    return simulate(PhantomSettings(subjects=1, seed=5, spacing_mm=3.0), 0)


@pytest.fixture(scope="module")
def spotless() -> SimulatedSubject:
    return simulate(PhantomSettings(subjects=1, seed=5, spacing_mm=3.0, lesions=(0, 0)), 0)


@pytest.fixture(scope="module")
def look_alikes(subject: SimulatedSubject) -> dict[str, Any]:
    t1w, t2w = (volume.voxels.astype(np.float32) for volume in (subject.t1w, subject.t2w))
    inside = subject.brain_mask.voxels > 0
    return study.look_alikes(np.random.default_rng(0), t1w, t2w, inside)


def with_voxels(volume: Volume, voxels: Any) -> Volume:
    return Volume(np.asarray(voxels), volume.affine, contrast=volume.contrast)


class TestOfImages:
    def test_simulated_adults_are_usual(self, subject: SimulatedSubject) -> None:
        for contrast, volume in (("T1w", subject.t1w), ("T2w", subject.t2w)):
            verdict = check_image(volume, contrast)
            assert verdict.level == "usual", verdict
            assert verdict.reasons == ()
            assert verdict.measured["turn"] == "upright"

    def test_the_other_contrast_is_unusual(self, subject: SimulatedSubject) -> None:
        verdict = check_image(subject.t2w, "T1w")
        assert verdict.level == "unusual"
        assert "looks like T2w, but its name or header says T1w" in verdict.reasons[0]
        verdict = check_image(subject.t1w, "T2w", known=False)
        assert verdict.level == "unusual"
        assert "but is taken for T2w" in str(verdict)

    def test_orientation_of_the_file_does_not_matter(self, subject: SimulatedSubject) -> None:
        volume = subject.t1w
        flipped = volume.affine.copy()
        flipped[:3, 0] *= -1
        flipped[:3, 3] += volume.affine[:3, 0] * (volume.voxels.shape[0] - 1)
        same = Volume(volume.voxels[::-1].copy(), flipped, contrast="T1w")
        assert check_image(same, "T1w").level == "usual"

    @pytest.mark.parametrize("kind", ["mask", "label map", "phantom object", "noise", "CT-like"])
    def test_look_alikes_are_noticed(
        self, subject: SimulatedSubject, look_alikes: dict[str, Any], kind: str
    ) -> None:
        level = check_image(with_voxels(subject.t1w, look_alikes[kind]), "T1w").level
        # A head with a large tumour may look like this: only unusual.
        assert level == "refused" if kind == "mask" else level != "usual"

    def test_a_background_that_is_not_black_counts_as_black(
        self, subject: SimulatedSubject
    ) -> None:
        voxels, inside = subject.t1w.voxels.astype(np.float32), subject.brain_mask.voxels > 0
        brain = voxels[inside]
        stripped = np.where(inside, voxels, 0)
        images = {
            "-1 to 1": stripped / stripped.max() * 2 - 1,
            "more": stripped + 1000,
            "mean 0": np.where(inside, (voxels - brain.mean()) / brain.std(), 0),
            "a head with mean 0": (voxels - voxels.mean()) / voxels.std(),
        }
        head, brain_only = (
            check_image(with_voxels(subject.t1w, one), "T1w") for one in (voxels, stripped)
        )
        for kind, image in images.items():
            verdict = check_image(with_voxels(subject.t1w, image), "T1w")
            black = head if "head" in kind else brain_only
            assert (verdict.level, verdict.reasons) == (black.level, black.reasons), kind

    @pytest.mark.parametrize("kind", ["spikes", "cut field of view", "missing slices"])
    def test_faults_of_the_acquisition(self, subject: SimulatedSubject, kind: str) -> None:
        spoilt = study.FAULTS[kind](np.random.default_rng(0), subject.t1w.voxels.astype(np.float32))
        verdict = check_image(with_voxels(subject.t1w, spoilt), "T1w")
        assert verdict.level != "usual"

    @pytest.mark.parametrize(
        ("contrast", "sides", "radius_mm", "level"),
        [
            ("T1w", (-26,), 17, "unusual"),
            ("T2w", (26,), 17, "unusual"),
            ("T1w", (-26, 26), 17, "usual"),
            ("T2w", (26,), 6, "usual"),
        ],
    )
    def test_a_lesion_on_one_side(
        self,
        spotless: SimulatedSubject,
        contrast: str,
        sides: tuple[int, ...],
        radius_mm: int,
        level: str,
    ) -> None:
        """Fluid in the white matter; ventricles, where they are not as in the template, are on
        both sides."""
        scan = spotless.t1w if contrast == "T1w" else spotless.t2w
        voxels = scan.voxels.astype(np.float32)
        inside = spotless.brain_mask.voxels > 0
        assert scan.affine is not None
        places = moved(np.argwhere(inside).astype(float), scan.affine)
        middle = places.mean(axis=0) + np.array((0, 25, 22))
        fluid = np.percentile(voxels[inside], 2 if contrast == "T1w" else 98)
        for side in sides:
            away = np.linalg.norm(places - middle - (side, 0, 0), axis=1)
            voxels[tuple(np.argwhere(inside)[away < radius_mm].T)] = fluid
        verdict = check_image(with_voxels(scan, voxels), contrast)
        assert verdict.level == level, verdict
        if level == "unusual":
            assert "of white matter on one side" in verdict.reasons[0]
            found = np.array(verdict.measured["lesion_at"])
            assert np.linalg.norm(found - middle - (sides[0], 0, 0)) < 10
            volume = 4 / 3 * np.pi * (radius_mm / 10) ** 3
            assert 0.4 * volume < verdict.measured["lesion_ml"] < volume

    def test_small_objects_are_unusual(self, make_scan: Callable[..., Volume]) -> None:
        verdict = check_image(make_scan(0, "T1w"), "T1w")
        assert verdict.level == "unusual"
        assert "too small for an adult's head" in verdict.reasons[0]


class TestOfNumbers:
    """Grey matter lies between white matter and fluid in T1w; in FLAIR and infants it does not."""

    T1W = Appearance(
        flat=0.0, values=900, skewness=-0.4, information=0.5, size=0.88, seen=1.0, grey=0.85,
        ventricles=0.5, low=0.3, high=1.15, highest=1.2, noise=0.02,
    )  # fmt: skip

    def level(self, contrast: str = "T1w", **changes: Any) -> str:
        numbers = Appearance(**{**self.T1W.as_json(), **changes})
        return verdict_of(list(signs(numbers, contrast)), numbers).level

    @pytest.mark.parametrize(
        ("changes", "level"),
        [
            ({}, "usual"),
            ({"grey": 1.1, "ventricles": 0.6, "high": 1.35}, "unusual"),  # FLAIR
            ({"grey": 1.01, "size": 0.67}, "unusual"),  # an infant
            ({"grey": 0.99}, "unusual"),  # a spin echo with little contrast
            ({"size": 0.75}, "unusual"),
            ({"grey": 1.1, "ventricles": 1.1, "low": 0.75}, "unusual"),  # PDw
            ({"highest": 1.8}, "unusual"),  # a contrast agent
            ({"noise": 0.2}, "unusual"),
            ({"empty": 2}, "unusual"),
            ({"flat": 0.9, "values": 12}, "refused"),
            ({"flat": 0.7}, "usual"),  # enlarged by nearest neighbour
            ({"turn": "upside down", "turned": 1.6}, "unusual"),
            ({"seen": 0.8}, "unusual"),
            ({"information": 0.05}, "unusual"),
        ],
    )
    def test_levels(self, changes: dict[str, Any], level: str) -> None:
        assert self.level(**changes) == level

    def test_contrasts_of_the_user_s_own_are_not_judged(self) -> None:
        assert self.level("T2star", grey=1.1) == "usual"

    # Grey matter, ventricles, 1st and 99th percentile of real scans, in units of white matter.
    LOOKS = (
        ("FLAIR", (1.09, 0.80, 0.45, 1.25)),  # open-ms-mni, patient07
        ("FLAIR", (0.97, 0.41, 0.18, 1.31)),  # patient19
        ("FLAIR", (1.15, 0.63, 0.30, 1.34)),  # open-ms-raw, patient01
        ("FLAIR", (1.20, 0.86, 0.28, 1.47)),  # patient04
        ("FLAIR", (0.98, 0.58, 0.28, 1.44)),  # a metastasis
        ("PDw", (1.11, 1.08, 0.73, 1.23)),
        ("T1w", (0.85, 0.50, 0.30, 1.15)),
        ("T2w", (1.60, 3.00, 0.80, 3.20)),
    )

    @pytest.mark.parametrize("contrast", ["PDw", "FLAIR"])
    @pytest.mark.parametrize(("shown", "look"), LOOKS)
    def test_looks(self, shown: str, look: tuple[float, ...], contrast: str) -> None:
        names = dict(zip(("grey", "ventricles", "low", "high"), look, strict=True))
        level = self.level(contrast, **names, skewness=0.8 if shown == "T2w" else -0.3)
        assert level == ("usual" if shown == contrast else "unusual")

    @pytest.mark.parametrize("contrast", ["T1w", "T2w", "PDw", "FLAIR"])
    def test_what_looks_like_its_contrast_is_not_said_to_look_otherwise(
        self, contrast: str
    ) -> None:
        numbers = (0.5, 0.8, 0.93, 0.98, 1.05, 1.4, 1.6)
        for grey, ventricles, low in itertools.product(numbers, repeat=3):
            look = {"grey": grey, "ventricles": ventricles, "low": low, "high": 2.0}
            for skewness in (-1.0, 1.0):
                seen = Appearance(**{**self.T1W.as_json(), **look, "skewness": skewness})
                assert not any(
                    sign.reason.startswith(f"looks like {contrast}")
                    for sign in signs(seen, contrast)
                )

    def test_the_strongest_reason_comes_first(self) -> None:
        verdict = verdict_of(
            [Sign("a", 1.1, "is a"), Sign("b", 0.9, "is b"), Sign("c", 3, "c")], None
        )
        assert (verdict.level, verdict.reasons) == ("refused", ("c", "is a"))
        assert str(verdict) == "refused: c; is a"


class TestTold:
    """In sidecars, reports, results and exit codes."""

    @pytest.fixture
    def mask(self, tmp_path: Path, subject: SimulatedSubject) -> Path:
        path = tmp_path / "scans" / "one_T1w.nii.gz"
        path.parent.mkdir()
        io.write(with_voxels(subject.t1w, subject.brain_mask.voxels), path)
        return path

    def test_refused_and_forced(self, tiny_bundle: Bundle, mask: Path, tmp_path: Path) -> None:
        out = tmp_path / "out.nii.gz"
        with pytest.raises(ScanRefused, match="is a mask or a label map by its look") as caught:
            translate(mask, out, model=tiny_bundle, device="cpu")
        assert isinstance(caught.value, InputError)
        assert caught.value.exit_code == 2
        assert caught.value.path == mask
        assert not out.exists()
        (done,) = translate(mask, out, model=tiny_bundle, device="cpu", force=True)
        assert done.verdict is not None
        assert done.verdict.level == "refused"
        sidecar = json.loads((tmp_path / "out.json").read_text())
        assert sidecar["InputCheck"] == done.verdict.as_json()

    def test_a_batch(
        self, tiny_bundle: Bundle, mask: Path, tmp_path: Path, subject: SimulatedSubject
    ) -> None:
        io.write(subject.t1w, mask.with_name("two_T1w.nii.gz"))
        with pytest.raises(SomeScansFailed) as caught:
            translate(mask.parent, tmp_path / "out", model=tiny_bundle, device="cpu")
        assert caught.value.exit_code == 1
        levels = {one.source.name: one.verdict.level for one in caught.value.result}
        assert levels == {"one_T1w.nii.gz": "refused", "two_T1w.nii.gz": "usual"}
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert report["failed"][0]["verdict"]["Level"] == "refused"
        assert report["done"][0]["verdict"] == {"Level": "usual", "Reasons": []}

    def test_objects(self, tiny_bundle: Bundle, make_scan: Callable[..., Volume]) -> None:
        made = translate(make_scan(0, "T1w"), model=tiny_bundle, device="cpu")
        assert made.verdict is not None
        assert made.verdict.level == "unusual"


def test_auroc() -> None:
    assert study.auroc([2.0, 3.0], [0.0, 1.0]) == 1.0
    assert study.auroc([0.0, 1.0], [0.0, 1.0]) == 0.5


@pytest.mark.nightly
def test_real_scans(real_data: Callable[[str], Path]) -> None:
    """No T1w or T2w of an adult is refused, healthy ones are usual; what is neither is noticed."""
    lines = [study.judged(case) for case in study.real_cases(real_data("open-ms-mni").parent)]
    for line in lines:
        if line["fault"] == "none":
            assert line["score"] < (1 if "healthy" in line["scan"] else 2), line
        else:
            assert line["score"] >= 1, line
