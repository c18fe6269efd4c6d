"""Functions of the package leave the process of their caller as they found it."""

from __future__ import annotations

import gc
import importlib
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch

import mrbridge
from mrbridge.bundle import Bundle
from mrbridge.dataset.store import Store
from mrbridge.evaluation.settings import EvaluateSettings
from mrbridge.io import image2d

LOGGERS = ("", "mrbridge", "pydicom", "torch")

asked_of_the_allocator: list[str] = []


def state() -> dict[str, Any]:
    """What a library call could change for all of a process."""
    loggers = {name: logging.getLogger(name) for name in LOGGERS}
    return {
        "environment": dict(os.environ),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "loggers": {
            name: (one.level, one.propagate, one.disabled, list(one.handlers), list(one.filters))
            for name, one in loggers.items()
        },
        "signals": [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)],
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "gradients": torch.is_grad_enabled(),
        "precision": (torch.get_float32_matmul_precision(), torch.get_default_dtype()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        # Not those of `random`: beartype draws from them, in tests only.
        "random numbers of torch": torch.get_rng_state().tolist(),
        "random numbers of numpy": np.random.get_state(legacy=False)["state"]["key"].tolist(),  # noqa: NPY002
        "numpy": (np.geterr(), np.get_printoptions()),
        "collector": (gc.isenabled(), gc.get_freeze_count()),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "folder": Path.cwd(),
        "allocator": list(asked_of_the_allocator),
    }


@pytest.fixture(autouse=True)
def _watched_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        def mallopt(self, *_: int) -> None:
            asked_of_the_allocator.append("mallopt")

    asked_of_the_allocator.clear()
    monkeypatch.setattr("ctypes.CDLL", lambda name: Library())


@pytest.mark.usefixtures("quick_phantom")
@pytest.mark.parametrize("verb", ["prepare", "train", "translate", "evaluate"])
def test_a_function_leaves_no_trace(
    verb: str,
    bids_scans: Path,
    small_store: Store,
    tiny: Callable[..., Any],
    tiny_bundle: Bundle,
    tmp_path: Path,
) -> None:
    gc.unfreeze()  # what an earlier command line in this process froze dies meanwhile
    scan = bids_scans / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    call = {
        "prepare": lambda: mrbridge.prepare(bids_scans, tmp_path / "store"),
        "train": lambda: mrbridge.train(
            small_store, tmp_path / "run", tiny("bridge", epochs=1), device="cpu"
        ),
        "translate": lambda: mrbridge.translate(
            scan, tmp_path / "made.nii.gz", model=tiny_bundle, device="cpu"
        ),
        "evaluate": lambda: mrbridge.evaluate(
            tiny_bundle,
            bids_scans,
            out=tmp_path / "scores",
            settings=EvaluateSettings(shown_cases=1, wasserstein_slices=2, tissues=False),
            device="cpu",
        ),
    }[verb]
    getattr(mrbridge, verb)  # what an import changes is not the call's
    importlib.import_module("torch._dynamo")  # PyTorch imports it in the first optimiser
    before = state()
    call()
    after = state()
    assert [name for name in before if before[name] != after[name]] == []


def test_only_the_command_line_sets_up_the_allocator(
    small_store: Store, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    small = [
        *("--set", "networks.image_size=32", "--set", "epochs=1", "--set", "steps_per_epoch=1"),
        *("--set", "networks.generator={levels: 4, features: 4, max_features: 8}"),
        *("--set", "networks.critic={features: 4, strided: 1}", "--set", "simulated_weight=0"),
        *("--from", "scratch", "--device", "cpu"),
    ]
    code, _, err = run("train", small_store.path, "-o", tmp_path / "run", *small)
    assert code == 0, err
    assert asked_of_the_allocator


def test_pictures_read_in_overlapping_threads_leave_no_filter(
    picture_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that began last once put back, for good, what the other one had set meanwhile."""
    path = next(picture_folder.rglob("*.png"))
    a_is_in, b_is_in, a_is_out = Event(), Event(), Event()
    original = image2d._check_whole

    def check_whole(data: bytes) -> None:
        if not a_is_in.is_set():
            a_is_in.set()
            assert b_is_in.wait(10)
        else:
            b_is_in.set()
            assert a_is_out.wait(10)
        original(data)

    monkeypatch.setattr(image2d, "_check_whole", check_whole)
    before = list(warnings.filters)
    with ThreadPoolExecutor(2) as pool:
        a = pool.submit(mrbridge.read, path)
        assert a_is_in.wait(10)
        b = pool.submit(mrbridge.read, path)
        a.result()
        a_is_out.set()
        b.result()
    assert warnings.filters == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="libgomp is GNU's OpenMP")
def test_pytorch_shares_the_machine_though_the_environment_stays() -> None:
    code = """
import os
before = dict(os.environ)
import mrbridge
mrbridge.Translator().device
assert dict(os.environ) == before
"""
    removed = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    inherited = {name: value for name, value in os.environ.items() if name not in removed}
    asked = inherited | {"OMP_DISPLAY_ENV": "verbose"}  # the library prints what it has read
    done = subprocess.run(
        [sys.executable, "-c", code], env=asked, capture_output=True, text=True, check=True
    )
    assert "GOMP_SPINCOUNT = '1000'" in done.stderr
