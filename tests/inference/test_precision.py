"""Translating slices gives what the network gives in float32, for any network, batch and size."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from mrbridge.bundle import Bundle, save_bundle
from mrbridge.hardware import fast_bfloat16
from mrbridge.inference import slices as module
from mrbridge.inference.translator import Translator
from mrbridge.networks.build import build_generator
from mrbridge.networks.settings import Networks
from mrbridge.phantom.subjects import VariedSubject, varied_subject
from mrbridge.preprocessing.geometry import fit_size
from mrbridge.preprocessing.preprocess import preprocess
from mrbridge.preprocessing.settings import PreprocessSettings
from mrbridge.volume import Volume

GENERATORS: dict[str, dict[str, Any]] = {
    "unet": {"kind": "unet", "levels": 4, "features": 8, "max_features": 16, "refine": 4},
    "resunet": {"kind": "resunet", "levels": 2, "features": 8, "max_features": 16, "blocks": 2},
    "resnet": {"kind": "resnet", "features": 8, "blocks": 2},
}
SIZE = 48
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def heads(make_scan: Callable[..., Volume]) -> dict[str, np.ndarray]:
    """Slices of one head in each contrast, in register: (10, 48, 48) in [-1, 1]."""
    return {
        contrast: fit_size(
            preprocess(make_scan(1, contrast), PreprocessSettings()).slices[1:-1], SIZE, SIZE
        )
        for contrast in ("T1w", "T2w")
    }


@pytest.fixture(scope="module")
def trained(
    tiny_bundle: Bundle, heads: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Bundle]:
    """Return the bundle of a kind of network; each is trained once."""

    @cache
    def make(kind: str) -> Bundle:
        networks = Networks(
            generator=GENERATORS[kind], critic={"features": 4, "strided": 1}, image_size=SIZE
        )
        weights = learned(networks, heads)
        manifest = tiny_bundle.manifest.model_copy(update={"networks": networks})
        return save_bundle(manifest, weights, tmp_path_factory.mktemp(kind))

    return make


def learned(networks: Networks, heads: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Weights, the same for both directions, that have learned something.

    In weights that were never trained, the rounding of bfloat16 grows with every layer.
    """
    network = build_generator(networks.generator, SIZE, torch.Generator().manual_seed(0))
    image, wanted = (torch.from_numpy(heads[contrast])[:, None] for contrast in ("T1w", "T2w"))
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(60):
        loss = (network(image) - wanted).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
    return {
        f"{name}.{key}": value.detach().clone()
        for name in ("to_target", "to_source")
        for key, value in network.state_dict().items()
    }


@pytest.fixture(params=list(GENERATORS))
def bundle(request: pytest.FixtureRequest, trained: Callable[[str], Bundle]) -> Bundle:
    """A bundle of each kind of network."""
    return trained(request.param)


def exact(bundle: Bundle, name: str, slices: np.ndarray) -> np.ndarray:
    """The result of a generator in float32."""
    with torch.inference_mode():
        return bundle.build(name)(torch.from_numpy(slices)[:, None])[:, 0].numpy()


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference as a share of the range [-1, 1]."""
    return float(np.abs(one - other).max() / 2)


def test_parity(bundle: Bundle, heads: dict[str, np.ndarray]) -> None:
    expected = exact(bundle, "to_target", heads["T1w"])
    assert np.ptp(expected) > 1, "a flat image would prove nothing"
    made = Translator(bundle, "cpu").translate_slices(heads["T1w"], "T2w")
    assert apart(made, expected) < 1e-2
    assert np.sqrt(np.mean(((made - expected) / 2) ** 2)) < 10 ** (-50 / 20)  # a PSNR of 50 dB


@pytest.fixture(scope="module")
def adult() -> VariedSubject:
    return varied_subject(2, 0, 2.0)


@pytest.mark.parametrize(("source", "target"), [("T1w", "T2w"), ("T2w", "T1w")])
def test_the_shipped_model_hides_its_rounding(
    source: str, target: str, adult: VariedSubject
) -> None:
    voxels = adult.seen[source].voxels[:, :, 24:60:12]
    fine = Volume(np.kron(voxels, np.ones((2, 2, 1), np.int16)), np.eye(4))
    slices = fit_size(preprocess(fine, PreprocessSettings()).slices, 192, 256)
    translator = Translator("shipped", "cpu")
    direction = translator.bundle.direction((source,), target)
    compute = translator.slice_translator(direction).computed
    fast, in_float32 = (compute([slices], in_float32=flag)[0] for flag in (False, True))
    assert apart(fast, in_float32) < 1e-2
    assert (apart(fast, in_float32) > 0) == fast_bfloat16(CPU)


def test_shape_type_and_range(bundle: Bundle) -> None:
    rng = np.random.default_rng(0)
    translator = Translator(bundle, "cpu")
    for shape in [(1, SIZE, SIZE), (3, 16, 16), (2, 64, 32), (5, 32, 80)]:
        made = translator.translate_slices(rng.uniform(-1, 1, shape).astype(np.float32), "T2w")
        assert (made.shape, made.dtype) == (shape, np.float32)
        assert np.abs(made).max() <= 1


def test_a_slice_does_not_depend_on_its_neighbours(
    bundle: Bundle, heads: dict[str, np.ndarray]
) -> None:
    translator = Translator(bundle, "cpu")
    together = translator.translate_slices(heads["T1w"], "T2w")
    single = [translator.translate_slices(one[None], "T2w") for one in heads["T1w"]]
    assert apart(together, np.concatenate(single)) < 1e-2
    assert np.abs(together[0] - together[5]).max() > 0.1


def test_slices_that_are_not_contiguous(bundle: Bundle, heads: dict[str, np.ndarray]) -> None:
    translator = Translator(bundle, "cpu")
    transposed = heads["T1w"].transpose(0, 2, 1)
    made = translator.translate_slices(transposed, "T2w")
    np.testing.assert_array_equal(made, translator.translate_slices(transposed.copy(), "T2w"))


@pytest.mark.parametrize(
    ("pixels", "sizes"), [(1, [1] * 5), (2 * 48 * 32, [2, 2, 1]), (10**6, [5]), (7000, [4, 1])]
)
def test_batches(
    pixels: int, sizes: list[int], trained: Callable[[str], Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    slices = np.random.default_rng(0).uniform(-1, 1, (5, 32, 48)).astype(np.float32)
    translator = Translator(trained("unet"), "cpu")
    seen: list[int] = []
    network = translator._network(translator.bundle.direction(("T1w",), "T2w"))
    network.register_forward_pre_hook(lambda _, images: seen.append(len(images[0])))
    monkeypatch.setitem(module._BATCH_PIXELS, "cpu", pixels)
    translator.translate_slices(slices.transpose(0, 2, 1), "T2w")
    assert seen == sizes
