"""Figures: right way round, the same each time, and without matplotlib's global state."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mrbridge.evaluation import figures
from mrbridge.evaluation.cases import Direction


@pytest.fixture
def panels():
    real = np.zeros((8, 40, 36), np.float32)
    real[:, 4:36, 4:32] = 0.5
    real[:, 4:20, 4:18] = 1.0  # bright in front on the patient's right
    mask = real > 0
    return figures.Panels(Direction("T1w", "T2w"), 1 - real, real * 0.9, real, mask, (2, 1, 1))


SCORES = {"psnr": [20.0, 25.0, 22.0], "ssim": [0.5, 0.9, 0.8]}


class TestSlices:
    def test_is_an_image_and_reproducible(self, panels, tmp_path):
        for name in ("a.png", "b.png"):
            figures.draw_slices(panels, [2, 3, 4], SCORES, tmp_path / name)
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
        with Image.open(tmp_path / "a.png") as image:
            assert image.width > 800

    def test_one_row_if_the_middle_slice_is_the_worst(self, panels, tmp_path):
        worst = {"psnr": SCORES["psnr"], "ssim": [0.9, 0.1, 0.9]}
        figures.draw_slices(panels, [2, 3, 4], SCORES, tmp_path / "two.png")
        figures.draw_slices(panels, [2, 3, 4], worst, tmp_path / "one.png")
        heights = [Image.open(tmp_path / f"{name}.png").height for name in ("two", "one")]
        assert heights[1] < 0.65 * heights[0]

    def test_slices_are_not_mirrored(self, panels, tmp_path):
        figures.draw_slices(panels, [3], {"psnr": [1.0], "ssim": [1.0]}, tmp_path / "a.png")
        pixels = np.asarray(Image.open(tmp_path / "a.png").convert("L")).astype(float)
        height, width = pixels.shape
        third = pixels[:, int(0.49 * width) : int(0.68 * width)]  # the true image
        third = third[int(0.2 * height) : int(0.9 * height)]
        top, bottom = np.array_split(third, 2)
        left, right = np.array_split(top, 2, axis=1)
        assert left.mean() > right.mean() + 30
        assert left.mean() > bottom.mean() + 30

    def test_without_input(self, panels, tmp_path):
        without_input = figures.Panels(
            Direction(None, "T2w"), None, panels.synthetic, panels.real, panels.mask, None
        )
        figures.draw_slices(without_input, [2, 3, 4], SCORES, tmp_path / "a.png")
        assert (tmp_path / "a.png").stat().st_size > 1000


class TestJointHistogram:
    def test_counts_by_hand(self):
        real = np.array([0.005, 0.005, 1.195, 5.0])
        synthetic = np.array([0.015, 0.015, 0.005, -1.0])
        counts = figures.count_jointly(real, synthetic)
        assert counts[0, 1] == 2
        assert counts[-1, 0] == 2  # beyond the edges counts at the edges
        assert counts.sum() == 4

    def test_is_drawn(self, tmp_path):
        counts = figures.count_jointly(np.full(5, 0.5), np.full(5, 0.5))
        figures.draw_joint_histogram(counts, Direction("T1w", "T2w"), tmp_path / "a.png")
        assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.parametrize("number", [2, 120])
def test_by_case_and_by_slice_are_drawn(number, tmp_path):
    values = list(np.linspace(0.1, 0.9, number))
    scores = {m: {"psnr": values, "ssim": values} for m in ("model", "floor", "copy")}
    figures.draw_by_case([f"${k}_{{$" for k in range(number)], scores, tmp_path / "a.png")
    figures.draw_by_slice(list(range(number)), scores, tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        with Image.open(tmp_path / name) as image:
            assert image.height < 2000


def test_no_global_state():
    code = "import sys, mrbridge.evaluation.figures; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
