"""What can be told of a training before PyTorch is imported: presets' names, the run's folder."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from mrbridge.errors import MrbridgeError, OutputError, SettingsError, must_be_here
from mrbridge.io.ownership import check_only
from mrbridge.io.temporary import is_temporary
from mrbridge.settings import read_yaml

PRESET_NAMES = ("unet", "resunet", "resnet", "bridge")


def is_follower() -> bool:
    """Whether this is one of several processes that train together, but not the first of them."""
    return int(os.environ.get("RANK", "0")) > 0


def check_preset(name: str) -> None:
    """Refuse a name that no preset has.

    Raises:
        SettingsError: with the nearest name.
    """
    if name in PRESET_NAMES:
        return
    near = difflib.get_close_matches(name, PRESET_NAMES, n=1)
    hint = f", did you mean '{near[0]}'?" if near else ""
    raise SettingsError(
        f"there is no preset '{name}'{hint}", remedy=f"Choose one of {', '.join(PRESET_NAMES)}."
    )


def refuse_url(run: str | Path) -> None:
    """Refuse a run at a URL: checkpoints are written all the time, and read when it is resumed.

    Raises:
        SettingsError: it is one.
    """
    must_be_here(
        run, "Train into a folder of this machine, and copy the run or its bundle when it is done."
    )


FILES = (
    *("settings.yaml", "metrics.csv", "progress.gif", "simulated.npz", "samples/epoch_*.png"),
    *("checkpoints/best.ckpt", "checkpoints/last.ckpt", "tensorboard/events.*"),
    *("bundle/bundle.json", "bundle/card.md", "bundle/weights-*.safetensors"),
    "bundle/onnx/*.onnx",
)
"""What a run consists of, as patterns."""


def must_be_run(folder: Path) -> None:
    """Refuse to replace a folder that is not a run, or holds more than a run.

    Raises:
        OutputError: it is not, or does.
    """
    check_only(folder, FILES)
    if _has_files(folder) and not _has_settings(folder):
        raise OutputError(
            "is not empty and is not a run of mrbridge", path=folder, remedy="Name a new folder."
        )


def refuse_foreign(run: Path) -> None:
    """Refuse a folder with files in it, but for a run that was killed before it kept anything.

    Raises:
        OutputError: there is something that a new run would mix with.
    """
    if not _has_files(run):
        return
    kept = [run / "bundle", *run.glob("checkpoints/*.ckpt")]
    is_begun = any(path.exists() and not is_temporary(path) for path in kept)
    if is_begun or not _has_settings(run):
        raise OutputError(
            "is not empty",
            path=run,
            remedy="Name a new folder, go on with the run in it with --resume, or replace it with "
            "--overwrite.",
        )
    must_be_run(run)


def _has_files(run: Path) -> bool:
    return run.is_file() or any(
        path.is_file() and not is_temporary(path) for path in run.rglob("*")
    )


def _has_settings(run: Path) -> bool:
    """Whether its settings are those of a training, which the settings of a project are not."""
    path = run / "settings.yaml"
    if path.is_file() and not path.stat().st_size:
        return True  # nothing that could be lost
    try:
        told = read_yaml(path)
    except MrbridgeError:
        return False
    networks = told.get("networks")
    return "preset" in told and isinstance(networks, dict) and "generator" in networks
