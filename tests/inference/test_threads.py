"""Threads translate at the same time, as those of a web server do, and get what one gets."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch

from mrbridge import translate
from mrbridge.bundle import Bundle
from mrbridge.inference import slices
from mrbridge.inference.translator import Translator
from mrbridge.volume import Volume

THREADS, ROUNDS = 4, 3


@pytest.fixture(params=["one translator", "a translator each", "the function"])
def translators(
    request: pytest.FixtureRequest, tiny_bundle: Bundle
) -> list[Callable[[Volume], Volume]]:
    """One for each thread."""
    if request.param == "the function":
        return [lambda scan: translate(scan, model=tiny_bundle, device="cpu")] * THREADS
    if request.param == "one translator":
        return [Translator(tiny_bundle, "cpu").translate] * THREADS
    return [Translator(tiny_bundle, "cpu").translate for _ in range(THREADS)]


def test_threads_do_not_disturb_each_other(
    translators: list[Callable[[Volume], Volume]],
    tiny_bundle: Bundle,
    make_scan: Callable[..., Volume],
) -> None:
    scans = [
        make_scan(seed, ("T1w", "T2w")[seed % 2], shape=(40, 48, 6 + seed))
        for seed in range(THREADS)
    ]
    expected = [Translator(tiny_bundle, "cpu").translate(scan).voxels for scan in scans]
    together = Barrier(THREADS)

    def work(own: int) -> list[np.ndarray]:
        together.wait(30)
        return [translators[own](scans[own]).voxels for _ in range(ROUNDS)]

    with ThreadPoolExecutor(THREADS) as pool:
        for made, wanted in zip(pool.map(work, range(THREADS)), expected, strict=True):
            for one in made:
                np.testing.assert_array_equal(one, wanted)


def test_the_number_of_threads_changes_no_voxel(
    tiny_bundle: Bundle, make_scan: Callable[..., Volume], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(slices._BATCH_PIXELS, "cpu", 3 * 64 * 64)
    scan = make_scan(1, "T1w", shape=(60, 64, 40))
    before, made = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            made.append(Translator(tiny_bundle, "cpu", "all").translate(scan).voxels)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for other in made[1:]:
        np.testing.assert_array_equal(other, made[0])
