"""Faults of models and of trainings."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from safetensors.numpy import load_file, save_file
from tests.faults.scans import put, stored
from tests.faults.table import MODEL, Outcome, Workshop, fault, law


def copy() -> Path:
    """A bundle to be damaged."""
    return Path(shutil.copytree(MODEL, "model"))


def edit(**changes: Any) -> None:
    """Change what its bundle.json says."""
    path = Path("model/bundle.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(workshop: Workshop, model: str = "model") -> Outcome:
    """Translate with a model that must be refused."""
    path = put(*stored())
    return workshop.refused("translate", "-m", model, "-i", path, "-o", "out.nii.gz")


class Trap:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("sprung"),))


@fault("bundle")
def changed_byte(workshop: Workshop) -> Outcome:
    """A changed byte in the weights"""
    (path,) = copy().glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    return refused(workshop)


@fault("bundle")
def checkpoint_as_model(workshop: Workshop) -> Outcome:
    """A PyTorch checkpoint in place of a model"""
    Path("model.ckpt").write_bytes(pickle.dumps(Trap()))
    outcome = refused(workshop, "model.ckpt")
    assert not Path("sprung").exists()
    return outcome


@fault("bundle")
def pickle_inside(workshop: Workshop) -> Outcome:
    """A pickle under the name of the weights, with the right checksum"""
    copy()
    content = pickle.dumps(Trap())
    Path("model/weights.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit(weights="weights.safetensors", weights_sha256=digest)
    outcome = refused(workshop)
    assert not Path("sprung").exists()
    return outcome


@fault("bundle")
def complex_weights(workshop: Workshop) -> Outcome:
    """Weights of complex numbers"""
    (path,) = copy().glob("*.safetensors")
    weights = {key: value.astype(np.complex64) for key, value in load_file(path).items()}
    save_file(weights, path)
    edit(weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    return refused(workshop)


@fault("bundle")
def outside(workshop: Workshop) -> Outcome:
    """Weights outside the bundle"""
    (path,) = copy().glob("*.safetensors")
    path.rename("elsewhere.safetensors")
    edit(weights="../elsewhere.safetensors")
    return refused(workshop)


@fault("bundle")
def newer(workshop: Workshop) -> Outcome:
    """A newer version of the format"""
    copy()
    edit(version=2)
    return refused(workshop)


@fault("bundle")
def older(workshop: Workshop) -> Outcome:
    """An older version that never existed"""
    copy()
    edit(version=0)
    return refused(workshop)


@fault("bundle")
def unreadable(workshop: Workshop) -> Outcome:
    """A truncated bundle.json"""
    path = copy() / "bundle.json"
    path.write_text(path.read_text()[:300])
    return refused(workshop)


@fault("bundle")
def unknown_key(workshop: Workshop) -> Outcome:
    """A bundle.json with an unknown key"""
    copy()
    edit(networks={"generator": {"kind": "unet", "lvels": 3}})
    return refused(workshop)


@fault("bundle")
def no_model(workshop: Workshop) -> Outcome:
    """A folder that is not a model"""
    Path("model").mkdir()
    return refused(workshop)


law("bundle", "bundles of version 1 keep loading", "tests/test_bundle.py::test_the_golden_bundle_loads_and_gives_the_same_images")  # fmt: skip  # noqa: E501
law(
    "bundle",
    "no unpickler is ever created",
    "tests/test_bundle.py::test_no_unpickler_is_ever_created",
)


SMALL = [
    *("--set", "networks.image_size=16", "--set", "validation_slices=1", "--set", "epochs=2"),
    *("--set", "networks.generator={levels: 3, features: 2, max_features: 4}"),
    *("--set", "networks.critic={features: 2, strided: 1}", "--set", "steps_per_epoch=2"),
    *("--set", "simulated_weight=0", "--set", "warm_up=0", "--set", "sample_slices=1"),
]


def train(workshop: Workshop, *more: str) -> Outcome:
    """Train on two small subjects."""
    if not Path("store").exists():
        Path("in").mkdir()
        for number in (1, 2):
            for contrast in ("T1w", "T2w"):
                put(*stored(), name=f"in/sub-0{number}_{contrast}.nii.gz")
        assert workshop.run("prepare", "in", "-o", "store").code == 0
    options = ["--device", "cpu", "-q", *more, *([] if "--resume" in more else SMALL)]
    preset = [] if "--resume" in more else ["--preset", "unet", "--from", "scratch"]
    return workshop.run("train", "store", "-o", "run", *preset, *options)


def stopped(workshop: Workshop, number: signal.Signals) -> Outcome:
    """Train and send a signal in the second step."""
    from mrbridge.training.model import TranslationModel

    step = TranslationModel.training_step

    def training_step(self: Any, batch: Any, progress: float) -> Any:
        if self.step == 1:
            os.kill(os.getpid(), number)
        return step(self, batch, progress)

    with mock.patch.object(TranslationModel, "training_step", training_step):
        return train(workshop)


@fault("stopped")
def terminated(workshop: Workshop) -> Outcome:
    """SIGTERM"""
    outcome = stopped(workshop, signal.SIGTERM)
    assert train(workshop, "--resume").code == 0
    return outcome


@fault("stopped")
def interrupted(workshop: Workshop) -> Outcome:
    """Ctrl-C"""
    outcome = stopped(workshop, signal.SIGINT)
    assert Path("run/checkpoints/last.ckpt").is_file()
    return outcome


@fault("stopped")
def not_resumed(workshop: Workshop) -> Outcome:
    """The same run again without `--resume`"""
    stopped(workshop, signal.SIGTERM)
    before = workshop.tree()
    outcome = train(workshop)
    assert workshop.tree() == before
    return outcome


@fault("stopped")
def damaged_checkpoint(workshop: Workshop) -> Outcome:
    """`--resume` with a damaged checkpoint"""
    stopped(workshop, signal.SIGTERM)
    path = Path("run/checkpoints/last.ckpt")
    path.write_bytes(path.read_bytes()[:1000])
    return train(workshop, "--resume")


law("stopped", "a resumed run equals one that was never stopped, bit for bit", "tests/training/test_resume.py::test_a_signal_in_an_epoch_changes_nothing")  # fmt: skip  # noqa: E501
law("stopped", "signals to a whole group of processes", "tests/test_cli.py::test_signals_end_a_training_with_a_checkpoint")  # fmt: skip  # noqa: E501
