"""Collapse detection: which synthetic images are inverted, copied or collapsed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage, stats

from mrbridge.training import monitor
from mrbridge.training.monitor import Reading, Reference, Verdict, read
from mrbridge.training.validation import ValidationImages
from mrbridge.volume import Volume

Stack = NDArray[np.float32]


@pytest.fixture(scope="module")
def heads(make_scan: Callable[..., Volume]) -> dict[str, Stack]:
    """Slices of a head in both contrasts, (12, 80, 96), in [-1, 1]."""

    def stack(contrast: str) -> Stack:
        voxels = make_scan(3, contrast, shape=(80, 96, 12)).voxels.astype(np.float32)
        return np.moveaxis(2 * voxels / voxels.max() - 1, 2, 0)

    return {contrast: stack(contrast) for contrast in ("T1w", "T2w")}


@pytest.fixture(scope="module", params=[("T1w", "T2w"), ("T2w", "T1w")], ids="-".join)
def case(request: Any, heads: dict[str, Stack]) -> SimpleNamespace:
    """A direction: its input, the reference, and ways to change a synthetic image.

    The reference is a blurred, paler version of the true image, as no model is perfect.
    """
    source, real = (heads[contrast] for contrast in request.param)
    inside = source > -0.95
    reference = ndimage.gaussian_filter(0.8 * real - 0.2, (0, 1, 1))

    def reverse(image: Stack) -> Stack:
        """The same intensities inside the head, the brightest where the darkest were."""
        result = image.copy()
        ranks = stats.rankdata(-image[inside], method="ordinal") - 1
        result[inside] = np.sort(image[inside])[ranks]
        return result

    def add_noise(image: Stack, std: float) -> Stack:
        noise = np.random.default_rng(0).normal(0, std, image.shape)
        return np.clip(image + noise, -1, 1).astype(np.float32)

    return SimpleNamespace(
        source=source,
        real=real,
        inside=inside,
        reference=reference,
        reverse=reverse,
        add_noise=add_noise,
        read=lambda synthetic, reference=reference: read(source, synthetic, real, reference),
    )


class TestReading:
    def test_the_reference_s_images_are_right(self, case: SimpleNamespace) -> None:
        result = case.read(case.reference)
        assert result.verdict is None
        assert result.agreement == pytest.approx(1)
        assert result.gradients == pytest.approx(1)

    def test_true_images_are_right(self, case: SimpleNamespace) -> None:
        result = case.read(case.real)
        assert result.verdict is None
        assert 0.5 < result.agreement < 1
        assert case.read(case.real, None).verdict is None

    @pytest.mark.parametrize("image", ["reference", "real"])
    def test_tissues_in_reverse_order_are_inverted(self, case: SimpleNamespace, image: str) -> None:
        result = case.read(case.reverse(getattr(case, image)))
        assert result.verdict == Verdict.INVERTED
        assert result.agreement < -0.3
        assert result.gradients < -0.3

    def test_a_few_right_slices_do_not_hide_inverted_ones(self, case: SimpleNamespace) -> None:
        image = case.reverse(case.reference)
        image[:3] = case.reference[:3]
        assert case.read(image).verdict == Verdict.INVERTED

    def test_a_negative_is_inverted_with_and_without_reference(self, case: SimpleNamespace) -> None:
        assert case.read(-case.reference).verdict == Verdict.INVERTED
        result = case.read(-case.real, None)
        assert (result.verdict, result.gradients) == (Verdict.INVERTED, None)
        assert result.agreement == pytest.approx(-1)

    @pytest.mark.parametrize("has_reference", [True, False])
    @pytest.mark.parametrize(
        "change",
        [lambda x: x, lambda x: 2 * ((x + 1) / 2) ** 2 - 1, lambda x: 0.5 * x - 0.5],
        ids=["plain", "darker", "paler"],
    )
    def test_the_input_is_a_copy(
        self, case: SimpleNamespace, change: Callable[[Stack], Stack], has_reference: bool
    ) -> None:
        result = case.read(change(case.source), case.reference if has_reference else None)
        assert result.verdict == Verdict.COPY
        assert result.likeness == pytest.approx(1)

    def test_a_copy_with_noise(self, case: SimpleNamespace) -> None:
        assert case.read(case.add_noise(case.source, 0.05)).verdict == Verdict.COPY

    @pytest.mark.parametrize("std", [0.05, 0.15, 0.3])
    def test_noise_changes_no_verdict(self, case: SimpleNamespace, std: float) -> None:
        assert case.read(case.add_noise(case.reference, std)).verdict is None
        inverted = case.reverse(case.reference)
        assert case.read(case.add_noise(inverted, std)).verdict == Verdict.INVERTED
        result = case.read(case.add_noise(np.zeros_like(case.source), 1.0))  # nothing but noise
        assert result.verdict is None
        assert abs(result.agreement) < 0.05

    @pytest.mark.parametrize("value", [-1.0, 0.3, 1.0])
    def test_an_almost_constant_head_is_collapsed(
        self, case: SimpleNamespace, value: float
    ) -> None:
        image = np.where(case.inside, np.float32(value), np.float32(-1)) + 0.01 * case.reference
        assert case.read(image).verdict == Verdict.COLLAPSED
        assert case.read(image, None).verdict == Verdict.COLLAPSED

    def test_values_that_are_not_finite_are_collapsed(self, case: SimpleNamespace) -> None:
        image = case.reference.copy()
        image[0, 0, 0] = np.nan
        assert case.read(image).verdict == Verdict.COLLAPSED

    def test_an_almost_constant_reference_is_ignored(self, case: SimpleNamespace) -> None:
        blank = np.where(case.inside, np.float32(0.3), np.float32(-1)) - 0.001 * case.reference
        result = case.read(case.reference, blank)
        assert (result.verdict, result.gradients) == (None, None)

    def test_similar_contrasts_are_not_copies(self, case: SimpleNamespace) -> None:
        """As T2w and PDw: even the reference's images resemble their input."""
        texture = np.random.default_rng(1).normal(0, 1, case.source.shape)
        texture = ndimage.gaussian_filter(texture, (0, 2, 2))
        similar = (case.source + 0.06 * texture / texture.std()).astype(np.float32)
        result = read(case.source, case.add_noise(similar, 0.005), similar, similar)
        assert result.likeness > monitor.COPY_FROM, "else this shows nothing"
        assert result.verdict is None
        assert read(case.source, case.source, similar, similar).verdict == Verdict.COPY

    def test_empty_slices_have_no_verdict(self, case: SimpleNamespace) -> None:
        black = np.full_like(case.source, -1)
        assert read(black, black, black, black).verdict is None


class TestMeasures:
    def test_rank_correlation_ignores_rising_changes(self) -> None:
        a = np.random.default_rng(0).uniform(-1, 1, 999)
        assert monitor.rank_correlation(a, np.exp(5 * a)) == pytest.approx(1)
        assert monitor.correlation(a, np.exp(5 * a)) < 0.9
        assert monitor.rank_correlation(a, -a) == pytest.approx(-1)
        assert monitor.correlation(a, np.zeros_like(a)) == 0

    def test_gradient_correlation_ignores_a_smooth_field(self, heads: dict[str, Stack]) -> None:
        image = heads["T2w"]
        with_field = 3 * np.linspace(-1, 1, image.shape[2], dtype=np.float32) + image
        inside = image > -0.9
        assert monitor.gradient_correlation(image, with_field, inside) > 0.9
        assert monitor.correlation(image[inside], with_field[inside]) < 0.6


def reading(verdict: Verdict | None = None, gradients: float | None = 0.8) -> Reading:
    return Reading(0.9, gradients, 0.1, verdict)


def test_messages_name_contrasts_and_reference() -> None:
    readings = {"to_target": reading(Verdict.INVERTED), "to_source": reading(Verdict.COPY)}
    assert monitor.messages(readings, "T1w", "T2w", "the initial model") == {
        "to_target": "T1w to T2w looks inverted: bright and dark tissues are swapped compared "
        "with the initial model",
        "to_source": "T2w to T1w copies its input: the synthetic T1w looks like T2w",
    }
    readings = {"to_target": reading(), "to_source": reading(Verdict.INVERTED, None)}
    assert monitor.messages(readings, "T1w", "T2w", None) == {
        "to_source": "T2w to T1w looks inverted: its mean image is a negative of the mean real T1w"
    }
    readings = {"to_target": reading(Verdict.COLLAPSED), "to_source": reading()}
    assert "has collapsed" in monitor.messages(readings, "T1w", "T2w", None)["to_target"]


def test_columns_are_numbers() -> None:
    readings = {"to_target": reading(Verdict.COPY), "to_source": reading(None, None)}
    assert monitor.columns(readings) == {
        "guard_agreement_to_target": 0.9,
        "guard_gradients_to_target": 0.8,
        "guard_likeness_to_target": 0.1,
        "guard_verdict_to_target": 2,
        "guard_agreement_to_source": 0.9,
        "guard_likeness_to_source": 0.1,
        "guard_verdict_to_source": 0,
    }


def test_each_direction_is_compared_with_its_own_images(heads: dict[str, Stack]) -> None:
    source, target = heads["T1w"], heads["T2w"]
    unused = np.zeros_like(source)
    images = ValidationImages(source, target, target, -source, unused, unused, unused, unused)

    def verdicts(images: ValidationImages, reference: Reference | None) -> list[Verdict | None]:
        readings = monitor.read_both(images, reference)
        return [readings[direction].verdict for direction in ("to_target", "to_source")]

    inverted = Verdict.INVERTED
    assert verdicts(images, Reference.of("it", target, source)) == [None, inverted]
    images = replace(images, to_source=source)
    assert verdicts(images, Reference.of("it", -target, source)) == [inverted, None]
    # A store that was prepared again has other validation slices: the reference does not apply.
    assert verdicts(images, Reference.of("it", -target[1:], source[1:])) == [None, None]
    copies = replace(images, to_target=source, to_source=target)
    assert verdicts(copies, None) == [Verdict.COPY, Verdict.COPY]
