"""The model that mrbridge ships, and where a model lies that somebody names.

The bundle in `t1w_t2w`, beside this module, was trained by `benchmarks/shipped_model.py` on
simulated subjects only: it has never seen a scan of a person.

No PyTorch here, so that the command line can refuse at once a model that is not there.
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
"""What users learn who name no model."""

_HERE = Path(__file__).parent


def shipped() -> Path:
    """The folder of the shipped bundle.

    Raises:
        BundleError: this installation has none.
    """
    folder = _HERE / "t1w_t2w"
    if not (folder / "bundle.json").is_file():
        raise BundleError(
            "holds no shipped model", path=folder, remedy="Name a run or a bundle, as in -m run."
        )
    return folder


def unnamed() -> Path:
    """The model of those who name none: the shipped one, and they are told.

    Raises:
        BundleError: this installation has none.
    """
    folder = shipped()
    log.info(UNNAMED)
    return folder


def locate(
    model: str | Path | None, remedy: str = f"Name a run or a bundle, or say {SHIPPED}."
) -> Path:
    """Where a model lies.

    Args:
        model: a path; the word `shipped`, unless the working directory has a run or bundle of that
            name; or None, which is the shipped one too.
        remedy: what to do where there is nothing.

    Raises:
        BundleError: there is nothing.
    """
    if model is None or (str(model) == SHIPPED and bundle_folder(Path(model)) is None):
        return shipped()
    path = Path(model)
    must_be_here(path, "Copy the model to this machine first.")
    if not path.exists():
        raise BundleError("does not exist", path=path, remedy=remedy)
    return path


def bundle_folder(place: Path) -> Path | None:
    """The folder of the bundle that a run or a bundle is known by, if it has one."""
    return next((f for f in (place, place / "bundle") if (f / "bundle.json").is_file()), None)


def is_installed(folder: Path) -> bool:
    """Whether a bundle is part of mrbridge itself, where nobody but an installer should write."""
    return _HERE.resolve() in folder.resolve().parents
