"""What can be told of a training before PyTorch is imported: presets' names, the run's folder."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from mrbridge.errors import OutputError, SettingsError, must_be_here
from mrbridge.io.safety import check_only, is_temporary

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
    *("settings.yaml", "metrics.csv", "progress.gif", "simulated.npz", "samples/*.png"),
    *("checkpoints/*.ckpt", "tensorboard/events.*", "bundle/bundle.json", "bundle/card.md"),
    *("bundle/weights-*.safetensors", "bundle/onnx/*.onnx"),
)
"""What a run consists of, as patterns."""


def must_be_run(folder: Path) -> None:
    """Refuse to replace a folder that is not a run, or holds more than a run.

    Raises:
        OutputError: it is not, or does.
    """
    check_only(folder, FILES)


def refuse_foreign(run: Path) -> None:
    """Refuse a folder with files in it, but for a run that was killed before it kept anything.

    Raises:
        OutputError: there is something that a new run would mix with.
    """
    if not run.is_file() and not any(
        path.is_file() and not is_temporary(path) for path in run.rglob("*")
    ):
        return
    kept = [run / "bundle", *run.glob("checkpoints/*.ckpt")]
    is_begun = any(path.exists() and not is_temporary(path) for path in kept)
    if is_begun or not (run / "settings.yaml").is_file():
        raise OutputError(
            "is not empty",
            path=run,
            remedy="Name a new folder, go on with the run in it with --resume, or replace it with "
            "--overwrite.",
        )
