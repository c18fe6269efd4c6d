"""Slices of other planes convert back, cover the same volume, and are averaged over all planes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from mrbridge.inference.planes import (
    OTHERS,
    between,
    cut,
    height,
    in_three_planes,
    planes_for,
    uncut,
    with_height,
)
from mrbridge.preprocessing.geometry import SliceGrid
from mrbridge.volume import Volume

SIZES = st.tuples(*[st.integers(1, 9)] * 3)
THREE = ("axial", "coronal", "sagittal")


def grid_of(shape: tuple[int, int, int], spacing: float) -> SliceGrid:
    """Slices so far apart, of pixels of 1 mm."""
    return SliceGrid(((0, 1), (1, 1), (2, 1)), shape, shape, np.eye(4), (spacing, 1.0, 1.0))


def noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


@given(SIZES, st.sampled_from(list(OTHERS)))
def test_what_is_cut_comes_back(shape: tuple[int, int, int], plane: str) -> None:
    stack = noise(shape)
    np.testing.assert_array_equal(uncut(cut(stack, plane), plane), stack)


def test_the_head_stands_upright() -> None:
    stack = np.zeros((5, 6, 7))  # from inferior to superior, to posterior, to the left
    stack[4, 1, 2] = 1
    assert cut(stack, "coronal").shape == (6, 5, 7)
    assert cut(stack, "coronal")[1, 0, 2] == 1, "the top row, left as in the axial slice"
    assert cut(stack, "sagittal").shape == (7, 5, 6)
    assert cut(stack, "sagittal")[2, 0, 1] == 1, "the top row, the face to the left"


@pytest.mark.parametrize(("spacing", "rows"), [(1.0, 20), (1.005, 20), (3.0, 60), (0.5, 10)])
def test_slices_become_as_far_apart_as_rows(spacing: float, rows: int) -> None:
    shape = (20, 4, 5)
    assert height(shape[0], grid_of(shape, spacing)) == rows
    ramp = np.broadcast_to(np.linspace(-1, 1, 20, dtype=np.float32)[:, None, None], shape)
    high = with_height(ramp, rows)
    assert high.shape == (rows, 4, 5)
    places = (np.arange(rows) + 0.5) * 20 / rows - 0.5
    expected = np.interp(places, np.arange(20), ramp[:, 0, 0])
    inner = slice(rows // 10, -(rows // 10))  # at their ends, cubics bend
    np.testing.assert_allclose(high[inner, 2, 3], expected[inner], atol=5e-3)


@pytest.mark.parametrize("spacing", [1.0, 3.0])
def test_what_is_only_copied_stays(spacing: float) -> None:
    shape = (24, 20, 22)
    across = np.linspace(0, 2 * np.pi, 24, dtype=np.float32)
    stack = (np.sin(across)[:, None, None] * noise((1, 20, 22))).astype(np.float32)
    inside = np.ones(shape, bool)
    (made,) = in_three_planes(
        [stack],
        inside,
        grid_of(shape, spacing),
        lambda s, f, _: ((s[0],), np.ones(len(s[0]), bool)),
    )
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, stack, atol=1e-6 if spacing == 1 else 0.02)


def test_the_mean_is_over_the_planes_that_were_translated() -> None:
    shape, seen = (8, 9, 10), []
    inside = np.zeros(shape, bool)
    inside[2:6, 3:, :5] = True

    def make(
        stacks: list[np.ndarray], foreground: np.ndarray, close: bool
    ) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        seen.append(foreground)
        level = (-0.5, 0.1, 1.0)[len(seen) - 1]
        made = np.full(stacks[0].shape, level, np.float32)
        return (made,), np.asarray(foreground.any(axis=(1, 2)))

    (made,) = in_three_planes([noise(shape)], inside, grid_of(shape, 1.0), make)
    np.testing.assert_array_equal(seen[0], inside)
    for foreground, plane in zip(seen[1:], OTHERS, strict=True):
        np.testing.assert_array_equal(foreground, cut(inside, plane))
    assert made[3, 5, 2] == pytest.approx(0.2), "all three"
    assert made[3, 1, 2] == pytest.approx(0.25), "no coronal slice there"
    assert made[3, 1, 8] == pytest.approx(-0.5), "only the axial slice"
    assert made[0, 5, 8] == pytest.approx(0.1), "only the coronal one"
    assert made[0, 0, 9] == -1, "none"


@pytest.mark.parametrize(("gap", "close"), [(1.0, [True] * 3), (3.0, [False, True, True])])
def test_which_slices_are_close(gap: float, close: list[bool]) -> None:
    shape, seen = (8, 9, 10), []

    def make(
        stacks: list[np.ndarray], foreground: np.ndarray, close: bool
    ) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        seen.append(close)
        return (stacks[0],), np.ones(len(foreground), bool)

    in_three_planes([noise(shape)], np.ones(shape, bool), grid_of(shape, gap), make)
    assert seen == close


class TestBetween:
    """Slices that are not computed follow from their neighbours."""

    given = noise((3, 30, 40))

    def test_the_mean_where_the_given_slice_shows_nothing_new(self) -> None:
        first, second = self.given[0], self.given[2]
        given = np.stack([first, (first + second) / 2, second])
        made = between(given, -first, 0.5 * second)
        np.testing.assert_allclose(made, (0.5 * second - first) / 2, atol=1e-6)

    @pytest.mark.parametrize("slope", [-1.0, 0.5])
    def test_detail_follows_a_straight_line(self, slope: float) -> None:
        expected = slope * self.given + 0.1
        made = between(self.given, expected[0], expected[2])
        plain = np.abs((expected[0] + expected[2]) / 2 - expected[1]).mean()
        assert np.abs(made - expected[1]).mean() < 0.1 * plain

    def test_background_next_to_anatomy_does_not_count(self) -> None:
        given = np.full((3, 30, 40), 0.3, np.float32)
        given[0, :15] = -1  # the head ends between the first slice and the others
        after = np.full((30, 40), 0.6, np.float32)
        before = np.where(given[0] > -1, np.float32(0.6), np.float32(-1))
        np.testing.assert_allclose(between(given, before, after), 0.6, atol=1e-5)

    def test_it_stays_in_range(self) -> None:
        given = np.stack([self.given[0], np.full((30, 40), 1, np.float32), self.given[2]])
        made = between(given, 2 * self.given[0], 2 * self.given[2])
        assert np.abs(made).max() <= 1


@pytest.mark.parametrize(
    ("thickness", "slices", "planes"),
    [(1.0, 64, THREE), (8.0, 8, THREE), (1.0, 63, THREE[:1]), (8.5, 40, THREE[:1])],
)
def test_thin_and_many_slices_are_cut(
    thickness: float, slices: int, planes: tuple[str, ...]
) -> None:
    turned = np.zeros((4, 4))  # the slices are the first axis of the file, upside down
    turned[0, 1], turned[1, 2], turned[2, 0], turned[3, 3] = 1, 1, -thickness, 1
    volume = Volume(np.zeros((slices, 5, 6), np.int16), turned)
    assert planes_for(volume, "all") == planes
    assert planes_for(volume, "axial") == ("axial",)


def test_pictures_are_never_cut() -> None:
    assert planes_for(Volume(np.zeros((200, 200, 1)), None), "all") == ("axial",)
