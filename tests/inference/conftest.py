"""A bundle of four contrasts; exported networks, which meet symbols in the places of sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from jaxtyping import config

from mrbridge.bundle import Bundle, save_bundle
from mrbridge.manifest import AnyContrast, BundleManifest, Uncertainty
from mrbridge.networks.blocks import init_weights
from mrbridge.networks.build import build_generator
from mrbridge.networks.settings import UNetSettings
from mrbridge.networks.unet import ScaleHead, UNet
from mrbridge.preprocessing.intensity import IntensityNormalisation
from mrbridge.volume import CONTRASTS

FOUR = UNetSettings(levels=2, features=4, max_features=8, refine=4, inputs=5, outputs=4)
WIDTH = 2


@contextmanager
def unchecked() -> Iterator[None]:
    """The checks of annotations take a symbol (`torch.SymInt`) for no `int`."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)


@pytest.fixture(autouse=True, scope="module")
def _sizes_may_be_symbols() -> Iterator[None]:
    with unchecked():
        yield


@pytest.fixture(scope="session")
def written(four_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """All generators of the bundle, two of them the tiny bundle's, exported by the verb."""
    from mrbridge.inference.export import export

    assert four_bundle.path is not None
    with unchecked():
        return export(four_bundle.path, tmp_path_factory.mktemp("export") / "new")


@pytest.fixture(scope="session")
def four_bundle(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with a generator of four contrasts, calibrated for one direction."""
    network = build_generator(FOUR, 32, torch.Generator().manual_seed(1))
    assert isinstance(network, UNet)
    head = ScaleHead(network.feature_channels, WIDTH, FOUR.inputs, FOUR.outputs)
    init_weights(head, torch.Generator().manual_seed(2))
    weights = dict(tiny_bundle.weights)
    for name, part in (("to_any", network), ("to_any_scale", head)):
        weights |= {f"{name}.{key}": value for key, value in part.state_dict().items()}
    typical = {c: IntensityNormalisation(low=0, high=1000) for c in CONTRASTS}
    more = AnyContrast(
        contrasts=CONTRASTS, generator=FOUR, width=WIDTH, factor={"T1w+FLAIR to T2w": 2.0}
    )
    update = {
        "any_contrast": more,
        "typical": typical | tiny_bundle.manifest.typical,
        "uncertainty": Uncertainty(factor={"T2w": 1.0}),
    }
    manifest = BundleManifest.build(
        tiny_bundle.manifest.model_copy(update=update).model_dump(mode="json")
    )
    return save_bundle(manifest, weights, tmp_path_factory.mktemp("four") / "bundle")
