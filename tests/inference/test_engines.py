"""Every engine gives what PyTorch gives in float32, whatever the network, the batch, the size."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrbridge.bundle import Bundle, Networks, load_bundle, save_bundle
from mrbridge.errors import SettingsError
from mrbridge.hardware import fast_bfloat16
from mrbridge.inference import engines
from mrbridge.inference.engine import Translator
from mrbridge.inference.engines import ENGINES, Engine, choose_engine, in_batches, open_engine
from mrbridge.networks import build_generator
from mrbridge.phantom.varied import varied_subject
from mrbridge.preparation.geometry import fit_size
from mrbridge.preparation.pipeline import StandardSettings, standardise
from mrbridge.volume import Volume

GENERATORS: dict[str, dict[str, Any]] = {
    "unet": {"kind": "unet", "levels": 4, "features": 8, "max_features": 16, "refine": 4},
    "resunet": {"kind": "resunet", "levels": 2, "features": 8, "max_features": 16, "blocks": 2},
    "resnet": {"kind": "resnet", "features": 8, "blocks": 2},
}
SIZE = 48
CPU = torch.device("cpu")


def need(engine: str) -> None:
    """Skip where the engine is not installed."""
    for package in engines.packages_of(engine):
        pytest.importorskip(package)


@pytest.fixture(scope="module")
def heads(make_scan: Callable[..., Volume]) -> dict[str, np.ndarray]:
    """Slices of one head in each contrast, in register: (10, 48, 48) in [-1, 1]."""
    return {
        contrast: fit_size(
            standardise(make_scan(1, contrast), StandardSettings()).slices[1:-1], SIZE, SIZE
        )[0]
        for contrast in ("T1w", "T2w")
    }


@pytest.fixture(scope="module")
def trained(
    tiny_bundle: Bundle, heads: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Bundle]:
    """Give the bundle of a kind of network; each is trained, and exported, once."""

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


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, bundle: Bundle) -> Engine:
    """Each engine with each network."""
    need(request.param)
    return open_engine(request.param, bundle, "to_target", CPU)


def exact(bundle: Bundle, slices: np.ndarray) -> np.ndarray:
    """What PyTorch gives in float32."""
    with torch.inference_mode():
        made: np.ndarray = bundle.build("to_target")(torch.from_numpy(slices)[:, None])[:, 0]
    return np.asarray(made)


class TestEveryEngine:
    def test_parity(self, engine: Engine, bundle: Bundle, heads: dict[str, np.ndarray]) -> None:
        expected = exact(bundle, heads["T1w"])
        assert np.ptp(expected) > 1, "a flat image would prove nothing"
        apart = np.abs(engine.run(heads["T1w"]) - expected) / 2  # of the range [-1, 1]
        assert apart.max() < 1e-2
        assert np.sqrt(np.mean(apart**2)) < 10 ** (-50 / 20)  # a PSNR of 50 dB

    @pytest.mark.parametrize(("contrast", "name"), [("T1w", "to_target"), ("T2w", "to_source")])
    def test_the_shipped_model_hides_its_rounding(self, contrast: str, name: str) -> None:
        voxels = varied_subject(2, 0, 2.0).seen[contrast].voxels[:, :, 24:60:6]
        fine = Volume(np.kron(voxels, np.ones((2, 2, 1), np.int16)), np.eye(4))
        slices, _ = fit_size(standardise(fine, StandardSettings()).slices, 192, 256)
        fast = open_engine("torch", load_bundle("shipped"), name, CPU)
        apart = np.abs(fast.run(slices) - fast.run(slices, precise=True)) / 2
        assert apart.max() < 1e-2
        assert (apart.max() > 0) == fast_bfloat16(CPU)

    def test_shape_type_and_range(self, engine: Engine) -> None:
        rng = np.random.default_rng(0)
        for shape in [(1, SIZE, SIZE), (3, 16, 16), (2, 64, 32), (5, 32, 80)]:
            assert shape[1] % engine.multiple == shape[2] % engine.multiple == 0
            made = engine.run(rng.uniform(-1, 1, shape).astype(np.float32))
            assert (made.shape, made.dtype) == (shape, np.float32)
            assert np.abs(made).max() <= 1

    def test_a_slice_does_not_depend_on_its_neighbours(
        self, engine: Engine, heads: dict[str, np.ndarray]
    ) -> None:
        together = engine.run(heads["T1w"])
        alone = np.concatenate([engine.run(one[None]) for one in heads["T1w"]])
        assert np.abs(together - alone).max() / 2 < 1e-2
        assert np.abs(together[0] - together[5]).max() > 0.1

    def test_slices_that_are_not_contiguous(
        self, engine: Engine, heads: dict[str, np.ndarray]
    ) -> None:
        turned = heads["T1w"].transpose(0, 2, 1)
        np.testing.assert_array_equal(engine.run(turned), engine.run(turned.copy()))


@pytest.mark.parametrize(
    ("pixels", "sizes"), [(1, [1] * 5), (2 * 12, [2, 2, 1]), (71, [5]), (59, [4, 1])]
)
def test_batches(pixels: int, sizes: list[int]) -> None:
    slices = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32).transpose(0, 2, 1)
    seen = []

    def compute(batch: np.ndarray) -> np.ndarray:
        assert batch.flags.c_contiguous
        seen.append(len(batch))
        return 2 * batch

    np.testing.assert_array_equal(in_batches(compute, slices, pixels), 2 * slices)
    assert seen == sizes


@pytest.mark.parametrize("name", ENGINES)
def test_a_whole_scan(
    name: str, tiny_bundle: Bundle, make_scan: Callable[..., Volume], tmp_path: Path
) -> None:
    need(name)
    bundle = save_bundle(tiny_bundle.manifest, tiny_bundle.weights, tmp_path / "bundle")
    scan = make_scan(1, "T1w", shape=(37, 45, 12))
    made = Translator(bundle, "cpu", name).translate(scan)
    assert made.voxels.shape == scan.voxels.shape
    assert np.isfinite(made.voxels).all()
    low = tiny_bundle.manifest.typical["T2w"].low
    np.testing.assert_allclose(made.voxels[..., 0], low * (scan.voxels[..., 0] != 0), atol=1e-4)
    assert np.ptp(made.voxels[..., 6]) > 0


class TestChoosing:
    def test_auto_takes_the_first_that_is_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engines, "find_spec", lambda package: None)
        assert choose_engine("auto", "cpu") == ("torch", CPU)
        monkeypatch.setattr(engines, "find_spec", lambda package: object())
        assert choose_engine("auto", "cpu") == (ENGINES[0], CPU)

    def test_one_that_does_not_exist(self, tiny_bundle: Bundle) -> None:
        with pytest.raises(SettingsError, match=r"no engine 'tflite'.*auto, torch"):
            Translator(tiny_bundle, "cpu", "tflite")

    @pytest.mark.parametrize("name", ["onnx"])
    def test_one_that_is_not_installed(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engines, "find_spec", lambda package: None)
        with pytest.raises(SettingsError, match=rf"needs .*pip install 'mrbridge\[{name}\]'"):
            choose_engine(name, "cpu")

    @pytest.mark.parametrize("name", ["onnx"])
    def test_those_of_the_cpu(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engines, "find_spec", lambda package: object())
        with pytest.raises(SettingsError, match="CPU only"):
            choose_engine(name, "cuda")
        with pytest.raises(SettingsError, match="no device 'tpu'"):
            choose_engine(name, "tpu")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert choose_engine(name, "auto") == (name, CPU)
        assert choose_engine("auto", "auto") == ("torch", torch.device("cuda"))

    def test_every_extra_is_declared(self) -> None:
        import tomllib

        root = Path(__file__).parents[2]
        declared = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        for name in set(ENGINES) - {"torch"}:
            extra = {word.split(">")[0] for word in declared["optional-dependencies"][name]}
            assert extra == set(engines.packages_of(name))
