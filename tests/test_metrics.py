"""Laws of the scores first, then values worked out by hand, then faults."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import ndimage, stats
from skimage.metrics import structural_similarity

from mrbridge import metrics
from mrbridge.errors import InputError


def blobs(shape: tuple[int, ...], seed: int, blur: float = 2.0) -> np.ndarray:
    """A smooth random image in [0, 1]."""
    image = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), blur)
    return ((image - image.min()) / np.ptp(image)).astype(np.float32)


def ball(shape: tuple[int, ...]) -> np.ndarray:
    """A mask: the ellipsoid that touches the sides."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return np.sum([np.square(axis) for axis in axes], axis=0) <= 1


def noise(shape: tuple[int, ...], seed: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


SHAPE = (12, 24, 20)
REAL, MASK = blobs(SHAPE, 1), ball(SHAPE)


class TestLaws:
    def test_an_image_equals_itself(self):
        found = metrics.scores(REAL, REAL, MASK)
        assert found["plain"] == {"psnr": math.inf, "ssim": pytest.approx(1), "mae": 0}
        assert found["fit"]["psnr"] > 100
        assert found["fit"]["ssim"] == pytest.approx(1, abs=1e-6)
        assert found["fit"]["mae"] == pytest.approx(0, abs=1e-6)

    def test_more_noise_scores_worse(self):
        grades = [
            metrics.scores(REAL, REAL + level * noise(SHAPE), MASK)
            for level in (0.01, 0.03, 0.1, 0.3)
        ]
        for better, worse in itertools.pairwise(grades):
            for kind in ("fit", "plain"):
                assert better[kind]["psnr"] > worse[kind]["psnr"]
                assert better[kind]["ssim"] > worse[kind]["ssim"]
                assert better[kind]["mae"] < worse[kind]["mae"]

    @settings(max_examples=20, deadline=None)
    @given(gain=st.floats(0.01, 1000), offset=st.floats(-100, 100))
    def test_fit_ignores_gain_and_offset(self, gain, offset):
        synthetic = (REAL + 0.1 * noise(SHAPE)).astype(np.float64)
        expected = metrics.scores(REAL, synthetic, MASK)["fit"]
        changed = metrics.scores(REAL, gain * synthetic + offset, MASK)["fit"]
        assert changed == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("gain", [0.5, 3.0, 4000.0])
    def test_plain_ignores_gain_but_not_offset(self, gain):
        synthetic = REAL + 0.05 * noise(SHAPE)
        expected = metrics.scores(REAL, synthetic, MASK)["plain"]
        assert metrics.scores(REAL, gain * synthetic, MASK)["plain"] == pytest.approx(
            expected, rel=1e-4
        )
        assert metrics.scores(REAL, synthetic + 1, MASK)["plain"]["psnr"] < expected["psnr"] - 3

    def test_scale_of_the_real_image_does_not_matter(self):
        synthetic = REAL + 0.05 * noise(SHAPE)
        expected = metrics.scores(REAL, synthetic, MASK)
        changed = metrics.scores(REAL * 731, synthetic, MASK)
        for kind in ("fit", "plain"):
            assert changed[kind] == pytest.approx(expected[kind], rel=1e-4)

    def test_psnr_and_mae_do_not_look_outside_the_mask(self):
        synthetic = np.where(MASK, REAL, 77)
        assert metrics.psnr(REAL, synthetic, MASK, 1) == math.inf
        assert metrics.mae(REAL, synthetic, MASK, 1) == 0

    def test_anticorrelated_image_fits_to_a_constant(self):
        scale, offset = metrics.fit_nonnegative(REAL, -REAL, MASK)
        assert scale == 0
        assert offset == pytest.approx(REAL[MASK].mean(), rel=1e-5)
        truth = metrics.scaled(REAL, MASK)
        spread = metrics.scores(REAL, -REAL, MASK)["fit"]["psnr"]
        assert spread == pytest.approx(-10 * math.log10(truth[MASK].var()), abs=1e-3)

    @given(scale=st.floats(0.1, 10), offset=st.floats(-5, 5))
    def test_fit_finds_scale_and_offset(self, scale, offset):
        found = metrics.fit_nonnegative(scale * REAL.astype(float) + offset, REAL, MASK)
        assert found == pytest.approx((scale, offset), rel=1e-5, abs=1e-5)

    def test_no_other_scale_and_offset_fits_better(self):
        synthetic = REAL + 0.2 * noise(SHAPE)
        scale, offset = metrics.fit_nonnegative(REAL, synthetic, MASK)

        def error(a: float, b: float) -> float:
            return float(np.square(a * synthetic + b - REAL)[MASK].mean())

        for a, b in ((0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)):
            assert error(scale, offset) < error(scale + a, offset + b)


class TestKnownValues:
    def test_psnr_by_hand(self):
        real, synthetic = np.zeros((2, 2)), np.array([[0.1, -0.1], [0.1, 0.1]])
        assert metrics.psnr(real, synthetic, None, 1.0) == pytest.approx(20)
        assert metrics.psnr(real, synthetic, None, 10.0) == pytest.approx(40)

    def test_mae_by_hand(self):
        real, synthetic = np.zeros((2, 2)), np.array([[0.1, -0.3], [5, 5]])
        mask = np.array([[True, True], [False, False]])
        assert metrics.mae(real, synthetic, mask, 1.0) == pytest.approx(0.2)
        assert metrics.mae(real, synthetic, mask, 2.0) == pytest.approx(0.1)

    def test_ssim_of_two_constants_by_hand(self):
        # Without variance only the luminance term is left: (2ab + c1) / (a^2 + b^2 + c1).
        a, b, c1 = 0.8, 0.4, 0.01**2
        expected = (2 * a * b + c1) / (a * a + b * b + c1)
        found = metrics.ssim(np.full((8, 16, 16), a), np.full((8, 16, 16), b), None, 1.0)
        assert found == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("shape", [(12, 24, 20), (32, 27)])
    @pytest.mark.parametrize("data_range", [1.0, 4.0])
    def test_ssim_map_is_that_of_scikit_image(self, shape, data_range):
        real, other = blobs(shape, 3), blobs(shape, 3) + 0.1 * noise(shape)
        _, expected = structural_similarity(
            real.astype(float),
            other.astype(float),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=data_range,
            full=True,
        )
        assert metrics.ssim_map(real, other, data_range) == pytest.approx(expected, abs=2e-5)
        mask = ball(shape)
        assert metrics.ssim(real, other, mask, data_range) == pytest.approx(
            expected[mask].mean(), abs=1e-5
        )

    def test_no_data_values_leave_ssim_finite(self):
        for image in (REAL, REAL + 0.1 * noise(SHAPE)):
            spoilt = image.copy()
            spoilt[0, 0, 0] = 3e38
            for one, other in ((spoilt, REAL), (REAL, spoilt)):
                similarity = metrics.ssim_map(one, other, 1.0)
                assert np.isfinite(similarity).all()
                truth = metrics.ssim_map(image, REAL, 1.0)
                np.testing.assert_allclose(similarity[:, 8:], truth[:, 8:], atol=1e-4)

    def test_ssim_stays_exact_on_a_high_pedestal(self):
        real, other = blobs(SHAPE, 3) + 100, blobs(SHAPE, 3) + 0.1 * noise(SHAPE) + 100
        _, expected = structural_similarity(
            real.astype(float),
            other.astype(float),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
            full=True,
        )
        assert metrics.ssim_map(real, other, 1.0) == pytest.approx(expected, abs=1e-3)

    def test_a_small_mask_gives_the_mean_of_the_whole_map(self):
        other = REAL + 0.1 * noise(SHAPE)
        mask = np.zeros(SHAPE, bool)
        mask[6:8, 9:12, 3:5] = True
        whole = metrics.ssim_map(REAL, other, 1.0)
        assert metrics.ssim(REAL, other, mask, 1.0) == pytest.approx(whole[mask].mean(), abs=1e-5)

    def test_few_slices_are_compared_slice_by_slice(self):
        real, other = REAL[:3], REAL[:3] + 0.1 * noise((3, 24, 20))
        by_slice = [metrics.ssim_map(r, o, 1.0) for r, o in zip(real, other, strict=True)]
        assert metrics.ssim_map(real, other, 1.0) == pytest.approx(np.stack(by_slice), abs=1e-5)
        mask = MASK[4:7]
        assert metrics.ssim(real, other, mask, 1.0) == pytest.approx(
            np.stack(by_slice)[mask].mean(), abs=1e-5
        )

    def test_a_2d_image_scores_like_a_stack_of_one(self):
        other = REAL + 0.1 * noise(SHAPE)
        flat = metrics.scores(REAL[5], other[5], MASK[5])
        stack = metrics.scores(REAL[5:6], other[5:6], MASK[5:6])
        for kind in ("fit", "plain"):
            assert flat[kind] == pytest.approx(stack[kind], rel=1e-6)

    def test_scaled_puts_the_percentile_at_one(self):
        values = np.arange(1001, dtype=np.float32)
        assert metrics.scaled(values)[995] == pytest.approx(1)

    def test_a_synthesis_without_signal_is_scored_as_zero(self):
        found = metrics.scores(REAL, np.full(SHAPE, -3.0), MASK)
        truth = metrics.scaled(REAL, MASK)[MASK]
        assert found["plain"]["mae"] == pytest.approx(truth.mean(), rel=1e-4)


@pytest.mark.parametrize("kinds", [1, 5, 10_000])
def test_equal_values_share_a_rank(kinds: int) -> None:
    values = np.random.default_rng(0).integers(0, kinds, (20, 30)).astype(np.float32)
    np.testing.assert_array_equal(metrics.ranks(values), stats.rankdata(values))


class TestSlicedWasserstein:
    PICTURES = np.stack([blobs((48, 40), seed) for seed in range(6)])

    def test_equal_sets_have_no_distance(self):
        assert metrics.sliced_wasserstein(self.PICTURES, self.PICTURES) == 0

    def test_symmetric(self):
        other = self.PICTURES + 0.1 * noise(self.PICTURES.shape)
        assert metrics.sliced_wasserstein(self.PICTURES, other) == pytest.approx(
            metrics.sliced_wasserstein(other, self.PICTURES)
        )

    def test_same_seed_same_answer(self):
        other = self.PICTURES[::-1]
        one, again, different = (
            metrics.sliced_wasserstein(self.PICTURES, other, seed=s) for s in (3, 3, 4)
        )
        assert one == again
        assert one != different

    def test_grows_with_blur(self):
        sharp = self.PICTURES + 0.02 * noise(self.PICTURES.shape)
        distances = [
            metrics.sliced_wasserstein(sharp, ndimage.gaussian_filter(sharp, (0, blur, blur)))
            for blur in (0.3, 0.6, 1.2, 2.4)
        ]
        assert distances == sorted(distances)
        assert distances[0] > 0

    def test_gain_and_offset_do_not_matter(self):
        # Karras et al. bring each set of patches to mean 0 and deviation 1.
        changed = 5 * self.PICTURES + 3
        assert metrics.sliced_wasserstein(self.PICTURES, changed) == pytest.approx(0, abs=0.1)

    def test_one_dimension_by_hand(self):
        # 49 equal dimensions: every direction sees the same 1-D sets, times the sum of its axis.
        generator = np.random.default_rng(0)
        a, b = generator.normal(0, 1, 400), generator.uniform(-2, 2, 400)
        standard = [np.sort((v - v.mean()) / v.std()) for v in (a, b)]
        distance = np.abs(standard[0] - standard[1]).mean()
        axes = np.random.default_rng(5).standard_normal((64, 49)).astype(np.float32)
        axes /= np.linalg.norm(axes, axis=1, keepdims=True)
        expected = distance * np.abs(axes.sum(axis=1)).mean()
        wide_a, wide_b = (np.repeat(v[:, None], 49, axis=1).astype(np.float32) for v in (a, b))
        found = metrics._sliced(wide_a, wide_b, 64, np.random.default_rng(5))
        assert found == pytest.approx(expected, rel=0.05)  # |sum| also mirrors the skewed sets

    def test_sets_of_other_number_and_size(self):
        mixed = [self.PICTURES[:3], self.PICTURES[3:, :40, :36]]
        assert 0 < metrics.sliced_wasserstein(self.PICTURES, mixed) < 100

    def test_repeating_a_set_changes_little(self):
        other = self.PICTURES + 0.3 * noise(self.PICTURES.shape)
        once = metrics.sliced_wasserstein(self.PICTURES, other)
        twice = metrics.sliced_wasserstein([self.PICTURES, self.PICTURES], other)
        assert twice == pytest.approx(once, rel=0.1)

    def test_pyramid_adds_up_to_the_image(self):
        picture = self.PICTURES[:1]
        fine, coarse = metrics._laplacian_pyramid(picture, 2)
        kernel = np.array([1, 4, 6, 4, 1]) / 16
        enlarged = np.zeros_like(picture)
        enlarged[:, ::2, ::2] = 4 * coarse
        for axis in (1, 2):
            enlarged = ndimage.convolve1d(enlarged, kernel, axis=axis, mode="mirror")
        assert fine + enlarged == pytest.approx(picture, abs=1e-5)

    def test_constant_images_have_finite_distances(self):
        flat = np.ones((2, 32, 32), np.float32)
        assert metrics.sliced_wasserstein(flat, flat * 2) == 0

    @pytest.mark.parametrize("pictures", [np.zeros((0, 32, 32)), [], np.zeros((1, 32, 15))])
    def test_too_few_or_too_small(self, pictures):
        with pytest.raises(InputError):
            metrics.sliced_wasserstein(pictures, self.PICTURES)


class TestMonotoneMapping:
    @pytest.mark.parametrize(
        "curve",
        [np.sqrt, np.exp, lambda x: -(x**3), lambda x: np.where(x > 0.5, 1.0, 0.0), lambda x: x],
    )
    def test_recovers_any_monotone_curve(self, curve):
        x = np.random.default_rng(0).random(20_000)
        mapped = metrics.fit_monotone(x, curve(x)).apply(x)
        assert np.abs(mapped - curve(x)).mean() < 1e-3

    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 10_000), st.integers(2, 60))
    def test_never_turns_back_and_never_loses_to_a_constant_or_a_line(self, seed, count):
        generator = np.random.default_rng(seed)
        x, y = generator.integers(0, 30, count), generator.normal(size=count)
        mapping = metrics.fit_monotone(x, y)
        steps = np.diff(mapping.outputs)
        assert (steps >= -1e-12).all() or (steps <= 1e-12).all()
        error = np.square(mapping.apply(x) - y).sum()
        line = np.polyval(np.polyfit(x, y, 1), x) if len(set(x.tolist())) > 1 else y.mean()
        assert error <= np.square(line - y).sum() + 1e-5

    def test_pools_by_hand(self):
        # 3, 1 violate the order and share their mean.
        mapping = metrics.fit_monotone(np.array([1, 2, 3, 4]), np.array([0, 3, 1, 9]))
        assert mapping.outputs.tolist() == [0, 2, 2, 9]
        assert mapping.apply(np.array([-5, 2.5, 3.5, 99])).tolist() == [0, 2, 5.5, 9]

    def test_many_equal_values_weigh_as_many(self):
        x, y = np.array([0, 0, 0, 1]), np.array([0, 0, 3, 5])
        assert metrics.fit_monotone(x, y).outputs.tolist() == [1, 5]

    def test_a_background_of_equal_values_does_not_break_the_bins(self):
        x = np.concatenate([np.zeros(50_000), np.linspace(0.1, 1, 50_000)])
        mapping = metrics.fit_monotone(x, 1 - x)
        assert mapping.apply(np.array([0.0, 0.5, 1.0])) == pytest.approx([1, 0.5, 0], abs=1e-3)

    def test_nothing_to_fit(self):
        with pytest.raises(InputError):
            metrics.fit_monotone(np.zeros(0), np.zeros(0))
        with pytest.raises(InputError):
            metrics.fit_monotone(np.zeros(3), np.zeros(4))


class TestFaults:
    @pytest.mark.parametrize("score", [metrics.psnr, metrics.mae, metrics.ssim])
    def test_shapes_and_empty_masks(self, score):
        with pytest.raises(InputError, match="shapes"):
            score(REAL, REAL[1:], None, 1.0)
        with pytest.raises(InputError, match="shapes"):
            score(REAL, REAL, MASK[1:], 1.0)
        with pytest.raises(InputError, match="mask is empty"):
            score(REAL, REAL, np.zeros(SHAPE, bool), 1.0)

    def test_a_true_image_without_signal_cannot_be_scored(self):
        with pytest.raises(InputError, match="no signal"):
            metrics.scores(np.zeros(SHAPE), REAL, MASK)
