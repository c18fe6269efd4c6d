"""The shipped model, and paths of models.

The bundle in `t1w_t2w`, next to this module, was trained by
`benchmarks/research/shipped_model.py` on simulated subjects only: it has never seen a scan of a
person.

There is no PyTorch here, so that the command line can refuse a missing model at once.
"""

from __future__ import annotations

import logging
from pathlib import Path

from mrbridge.errors import BundleError, must_be_here

log = logging.getLogger(__name__)

SHIPPED = "shipped"
"""The name of the shipped model."""

UNNAMED = (
    "translating with the shipped model, trained on simulated subjects only; name another with -m"
)
"""The message for users who name no model."""

_HERE = Path(__file__).parent


def shipped() -> Path:
    """The folder of the shipped bundle; BundleError if this installation has none."""
    folder = _HERE / "t1w_t2w"
    if not (folder / "bundle.json").is_file():
        raise BundleError(
            "holds no shipped model", path=folder, remedy="Name a run or a bundle, as in -m run."
        )
    return folder


def unnamed() -> Path:
    """The shipped model, for users who name none, who are informed; BundleError if this
    installation has none."""
    folder = shipped()
    log.info(UNNAMED)
    return folder


def locate(
    model: str | Path | None, remedy: str = f"Name a run or a bundle, or use {SHIPPED}."
) -> Path:
    """The path of a model: a path; the word `shipped`, unless the working directory has a run or
    bundle of that name; or None, which is the shipped one too. BundleError with the remedy if there
    is nothing."""
    if model is None or (str(model) == SHIPPED and bundle_folder(Path(model)) is None):
        return shipped()
    path = Path(model)
    must_be_here(path, "Copy the model to this machine first.")
    if not path.exists():
        raise BundleError("does not exist", path=path, remedy=remedy)
    return path


def bundle_folder(place: Path) -> Path | None:
    """The folder of the bundle in a run, or of a bundle itself; None if there is none."""
    return next((f for f in (place, place / "bundle") if (f / "bundle.json").is_file()), None)


def is_installed(folder: Path) -> bool:
    """Whether a bundle is part of the installation of mrbridge."""
    return _HERE.resolve() in folder.resolve().parents
