"""Paths and URLs on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from mrbridge.urls import is_url


def _place(text: str) -> Path:
    """A path, or the local mirror of a URL."""
    if not is_url(text):
        return Path(text)
    from mrbridge.io.remote import localise

    path: Path = localise(text)
    return path


def place_option(*names: str, help: str) -> Any:
    """An option that takes a path or a URL."""
    return typer.Option(*names, parser=_place, metavar="PATH|URL", help=help)


def place_argument(metavar: str, help: str) -> Any:
    """An argument that takes a path or a URL."""
    return typer.Argument(metavar=metavar, parser=_place, help=help)
