"""Shapes of annotated functions are checked while the tests run; small data shared by all tests.

The shared data are four subjects with both contrasts, a store made of them, a store made of
pictures, settings of tiny networks, and a bundle of untrained ones. Heavy modules are imported
inside the fixtures, so that tests without them stay quick.
"""

from __future__ import annotations

import copy
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from jaxtyping import install_import_hook

from mrbridge import cli, console, interruption

install_import_hook(["mrbridge.networks", "mrbridge.training.losses"], "beartype.beartype")

if TYPE_CHECKING:
    from mrbridge.bundle import Bundle
    from mrbridge.dataset.store import Store
    from mrbridge.training.settings import TrainSettings
    from mrbridge.volume import Volume

TINY_NETWORKS: dict[str, Any] = {
    "image_size": 32,
    "generator": {"kind": "unet", "levels": 4, "features": 4, "max_features": 8},
    "critic": {"features": 4, "strided": 1},
}


def ellipsoids(
    seed: int, contrast: str, shape: tuple[int, int, int] = (40, 48, 12), spacing: float = 1.0
) -> Volume:
    """A head of nested ellipsoids, a little different for each seed, stored with a flipped first
    axis; whatever is bright in T1w is dark in T2w."""
    from mrbridge.volume import Volume

    i, j, k = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    rng = np.random.default_rng(seed)
    i, j = i + rng.uniform(-0.05, 0.05), j + rng.uniform(-0.05, 0.05)
    width = rng.uniform(0.8, 0.9, 3)
    radius = (i / width[0]) ** 2 + (j / width[1]) ** 2 + (k / (1.2 * width[2])) ** 2
    fluid = ((np.abs(i) - 0.2) / 0.12) ** 2 + (j / 0.4) ** 2 + (k / 0.7) ** 2 < 1
    white = radius + 0.15 * np.sin(9 * i) * np.sin(7 * j) < 0.5
    values = {"T1w": (60, 900, 500, 700), "T2w": (1000, 350, 550, 420)}[contrast]
    voxels = np.select(
        [fluid, white, radius < 0.8, radius < 1], [values[n] for n in range(4)], 0.0
    ) + rng.normal(0, 8, shape) * (radius < 1)
    affine = np.diag([-spacing, spacing, 4.0, 1.0])
    affine[:3, 3] = [20, -24, -20]
    return Volume(np.clip(voxels, 0, None).astype(np.int16), affine, contrast=contrast)


# Containers often set PYTHONDONTWRITEBYTECODE. Each worker would compile all tests again, which
# takes ten seconds, and each process that a test starts would compile mrbridge.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

DATA_VARIABLE = "MRBRIDGE_TEST_DATA"
NO_DATA = "real scans are missing"


def _real_data() -> Path:
    named = os.environ.get(DATA_VARIABLE)
    return Path(named) if named else Path(__file__).parents[2] / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a folder of real scans that was named and is not there: all its tests would skip."""
    if os.environ.get(DATA_VARIABLE) and not _real_data().is_dir():
        raise pytest.UsageError(f"{DATA_VARIABLE}: {_real_data()} is not a folder")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that read real scans: `-m needs_data` selects them."""
    for item in items:
        if "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker("needs_data")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests were skipped for lack of real scans."""
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum(NO_DATA in str(report.longrepr) for report in skipped)
    if count:
        terminalreporter.write_line(
            f"{count} tests were skipped because {NO_DATA}: set {DATA_VARIABLE} "
            "(see CONTRIBUTING.md)",
            yellow=True,
        )


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """Find real scans by name: `real_data("seed-png")`. Skips the test where they are missing."""

    def find(name: str) -> Path:
        path = _real_data() / name
        if not path.exists():
            pytest.skip(f"{NO_DATA}: {name}")
        return path.resolve()

    return find


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny networks are quicker on one thread, and other processes share the processor.

    So do those that tests start: sums in another order would not be bit-identical. The threads of
    OpenBLAS, which NumPy and SciPy load, spin while they wait: small products take ten times as
    long if another worker keeps the cores busy.
    """
    import torch
    from threadpoolctl import threadpool_limits

    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    torch.set_num_threads(1)
    threadpool_limits(1, "blas")


_SAFE_PATH = os.environ.get("PYTHONSAFEPATH")


def _restore_safe_path() -> None:
    if _SAFE_PATH is None:
        os.environ.pop("PYTHONSAFEPATH", None)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """A command line in this process sets up logging, warnings and signals: for one test only."""
    logger = logging.getLogger("mrbridge")
    handlers, propagate, level = list(logger.handlers), logger.propagate, logger.level
    show, hooks = warnings.showwarning, (threading.excepthook, sys.unraisablehook)
    handlers_of = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in handlers_of.items():
        if handler is signal.SIG_IGN:  # as in the background of a shell script
            signal.signal(number, signal.default_int_handler)
    _restore_safe_path()  # a command of a fixture of the session sets it, too
    yield
    _restore_safe_path()
    threading.excepthook, sys.unraisablehook = hooks
    logging.raiseExceptions = True
    logger.handlers, logger.propagate, warnings.showwarning = handlers, propagate, show
    logger.setLevel(level)
    for number, handler in handlers_of.items():
        signal.signal(number, handler)
    interruption._state = interruption._State()  # else a signal interrupts a later test
    console.verbosity = console.Verbosity()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process: `run("info", "unet")` gives (code, out, err)."""

    def call(*arguments: Any, main: Callable[..., None] = cli.main) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return call


@pytest.fixture
def quick_phantom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated subjects of ellipsoids: the true phantom takes seconds."""
    from dataclasses import replace
    from types import SimpleNamespace

    from mrbridge.dataset import simulated

    def varied_subject(
        seed: int,
        index: int,
        spacing_mm: float,
        stripped: bool | None = None,
        *,
        contrasts: tuple[str, ...],
    ) -> SimpleNamespace:
        tops = {"T1w": 0.04, "T2w": 0.6, "PDw": 0.7, "FLAIR": 0.2}
        scans = {
            c: replace(ellipsoids(seed % 1000 + index, "T1w" if c == "T1w" else "T2w"), contrast=c)
            for c in contrasts
        }
        canonical = {
            c: replace(v, voxels=(v.voxels * (tops[c] / v.voxels.max())).astype(np.float32))
            for c, v in scans.items()
        }
        return SimpleNamespace(seen=scans, canonical=canonical, stripped=False)

    monkeypatch.setattr(simulated, "varied_subject", varied_subject)


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of one pixel: drawing them takes longer than all else with small scans."""
    from matplotlib.figure import Figure
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    def blank(_: Figure, path: Path, *, metadata: dict[str, str], **more: Any) -> None:
        info = PngInfo()
        for item in metadata.items():
            info.add_text(*item)
        Image.new("L", (1, 1)).save(path, "PNG", pnginfo=info)

    monkeypatch.setattr(Figure, "savefig", blank)


@pytest.fixture(scope="session")
def make_scan() -> Callable[..., Volume]:
    """Make one head: `make_scan(seed, contrast, shape=…, spacing=…)`."""
    return ellipsoids


@pytest.fixture(scope="session")
def bids_scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BIDS dataset of four subjects with T1w and T2w in register."""
    from mrbridge import io

    root = tmp_path_factory.mktemp("data") / "bids"
    for number in range(1, 5):
        for contrast in ("T1w", "T2w"):
            name = f"sub-{number:02}/anat/sub-{number:02}_{contrast}.nii.gz"
            io.write(ellipsoids(number, contrast), root / name)
    (root / "dataset_description.json").write_text('{"Name": "made by a test"}')
    return root


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of pictures, TrainT1 and TrainT2, of one head."""
    from mrbridge import io
    from mrbridge.volume import Volume

    root = tmp_path_factory.mktemp("data") / "pictures"
    for contrast in ("T1w", "T2w"):
        voxels = ellipsoids(7, contrast, (44, 36, 60)).voxels[:, :, 15:45] // 5
        for number in range(voxels.shape[2]):
            picture = Volume(voxels[:, :, number, None].astype(np.uint8), None)
            io.write(picture, root / f"Train{contrast[:2]}" / f"Image #{number + 5}.png")
    return root


@pytest.fixture(scope="session")
def small_store(bids_scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The BIDS dataset, prepared: two subjects to train, sub-03 to validate, sub-01 to test."""
    from mrbridge.dataset.prepare import prepare
    from mrbridge.dataset.settings import PrepareSettings

    return prepare(bids_scans, tmp_path_factory.mktemp("data") / "store", PrepareSettings(seed=3))


@pytest.fixture(scope="session")
def picture_store(picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The pictures, prepared: split into blocks."""
    from mrbridge.dataset.prepare import prepare

    return prepare(picture_folder, tmp_path_factory.mktemp("data") / "picture-store")


@pytest.fixture(scope="session")
def tiny_networks() -> dict[str, Any]:
    """Networks that train in milliseconds, as nested settings."""
    return copy.deepcopy(TINY_NETWORKS)


@pytest.fixture(scope="session")
def tiny(tiny_networks: dict[str, Any]) -> Callable[..., TrainSettings]:
    """Settings of a training of seconds: `tiny(preset="unet", epochs=2, …)`."""
    from mrbridge.training.settings import resolve

    def make(preset: str = "bridge", **changes: Any) -> TrainSettings:
        small: dict[str, Any] = {
            "networks": tiny_networks,
            "simulated_subjects": 1,
            "epochs": 2,
            "steps_per_epoch": 2,
            "validation_slices": 3,
            "sample_slices": 2,
        }
        return resolve({"preset": preset}, small, changes)

    return make


@pytest.fixture(scope="session")
def tiny_bundle(
    small_store: Store, tiny_networks: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """A bundle of untrained tiny generators, on disk, with the store's intensity ranges."""
    import torch

    from mrbridge.bundle import save_bundle
    from mrbridge.manifest import BundleManifest
    from mrbridge.networks.build import build_generator
    from mrbridge.networks.settings import Networks

    networks = Networks.build(tiny_networks)
    rng = torch.Generator().manual_seed(0)
    weights = {
        f"{name}.{key}": value
        for name in ("to_target", "to_source")
        for key, value in build_generator(networks.generator, 32, rng).state_dict().items()
    }
    manifest = BundleManifest(
        source="T1w",
        target="T2w",
        preset="bridge",
        networks=networks,
        standard=small_store.manifest.settings.standard,
        typical=small_store.manifest.typical,
        pictures=False,
        least_size=16,
        trained={"subjects": 2},
        scores={"psnr_target": 12.5},
    )
    return save_bundle(manifest, weights, tmp_path_factory.mktemp("data") / "bundle")


@pytest.fixture
def certain_bundle(tiny_bundle: Bundle) -> Bundle:
    """The tiny bundle with scale heads that predict 0.05 everywhere, factor 2; in memory."""
    import math

    import torch

    from mrbridge.bundle import Bundle
    from mrbridge.manifest import Uncertainty
    from mrbridge.networks.unet import ScaleHead, UNet

    weights = dict(tiny_bundle.weights)
    for name in ("to_target", "to_source"):
        network = tiny_bundle.build(name)
        assert isinstance(network, UNet)
        head = ScaleHead(network.feature_channels, 4)
        state = {key: torch.zeros_like(value) for key, value in head.state_dict().items()}
        state["refine.2.bias"] += math.log(0.05)
        weights |= {f"{name}_scale.{key}": value for key, value in state.items()}
    known = Uncertainty(width=4, factor={"T1w": 2.0, "T2w": 2.0}, spread=0.0)
    manifest = tiny_bundle.manifest.model_copy(update={"uncertainty": known})
    return Bundle(manifest, weights)


@pytest.fixture
def as_shipped(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """The tiny bundle in the place of the one that comes with mrbridge."""
    from mrbridge import models

    monkeypatch.setattr(models, "shipped", lambda: tiny_bundle.path)
    return tiny_bundle
