"""The folder of a run: which files belong to it, and when a training may write into it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from mrbridge.errors import MrbridgeError, OutputError, SettingsError, must_be_here
from mrbridge.io.atomic import write_text
from mrbridge.io.lock import only_writer
from mrbridge.io.ownership import check_only
from mrbridge.io.temporary import LOCK, is_temporary, sweep
from mrbridge.settings import read_yaml
from mrbridge.training.settings import TrainSettings


def check_target(run: str | Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse (SettingsError) a run at a URL, since checkpoints are written often, and read again on
    resume; and one that is both resumed and overwritten."""
    must_be_here(run, "Train into a folder on this machine, then copy the run or its bundle.")
    if resume and overwrite:
        remedy = "Leave out one of the two."
        raise SettingsError("a run is either resumed or overwritten", path=run, remedy=remedy)


FILES: tuple[str, ...] = (
    *("settings.yaml", "metrics.csv", "progress.gif", "simulated.npz", "samples/epoch_*.png"),
    *("checkpoints/best.ckpt", "checkpoints/last.ckpt", "tensorboard/events.*"),
    *("bundle/bundle.json", "bundle/card.md", "bundle/weights-*.safetensors"),
    "bundle/onnx/*.onnx",
)
"""The files of a run, as patterns."""

CHECKPOINT = Path("checkpoints", "last.ckpt")
"""What a run is resumed from."""

_LARGE = ("checkpoints", "simulated.npz")


def remove_state(run: Path) -> None:
    """Remove what only resuming needs, and is large."""
    for name in _LARGE:
        path = run / name
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def only_training(run: Path, resume: bool) -> Iterator[None]:
    """Be the only training that writes into a run."""
    if resume and not run.is_dir():  # reading the checkpoint fails clearly
        yield
        return
    is_new = not run.exists()
    try:
        with only_writer(run):
            yield
    finally:
        if is_new:  # a training that cannot start leaves no folder
            with suppress(OSError):
                run.rmdir()


def make_folder(run: Path, settings: TrainSettings, overwrite: bool) -> None:
    """Make the run's folder with its settings, without what it held if it is overwritten."""
    if overwrite and run.is_dir():
        for entry in run.iterdir():
            if entry.name != LOCK:  # held by this process
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for folder in (run, run / "checkpoints", run / "samples"):
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
    sweep(run / "bundle")
    text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
    write_text(run / "settings.yaml", text)


def check_replaceable(folder: Path) -> None:
    """Refuse to replace a folder that is not a run, or holds other files too: OutputError."""
    check_only(folder, FILES)
    if _has_files(folder) and not _has_settings(folder):
        raise OutputError(
            "is not empty and is not a run of mrbridge", path=folder, remedy="Name a new folder."
        )


def check_unused(run: Path) -> None:
    """Refuse a folder that is not empty (OutputError), unless it is a run that was killed before
    its first save."""
    if not _has_files(run):
        return
    results = [run / "bundle", *run.glob("checkpoints/*.ckpt")]
    has_results = any(path.exists() and not is_temporary(path) for path in results)
    if has_results or not _has_settings(run):
        raise OutputError(
            "is not empty",
            path=run,
            remedy="Name a new folder, continue the run in it with --resume, or replace it with "
            "--overwrite.",
        )
    check_replaceable(run)


def _has_files(run: Path) -> bool:
    return run.is_file() or any(
        path.is_file() and not is_temporary(path) for path in run.rglob("*")
    )


def _has_settings(run: Path) -> bool:
    """Whether settings.yaml is that of a training, rather than of another program."""
    path = run / "settings.yaml"
    if path.is_file() and not path.stat().st_size:
        return True  # nothing that could be lost
    try:
        settings = read_yaml(path)
    except MrbridgeError:
        return False
    networks = settings.get("networks")
    return "preset" in settings and isinstance(networks, dict) and "generator" in networks
