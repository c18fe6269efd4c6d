"""Where a synthesis may be written: never over what somebody acquired."""

from __future__ import annotations

from pathlib import Path

from mrbridge.errors import MrbridgeError, OutputError
from mrbridge.inference.synthesis import sidecar_path
from mrbridge.io import read
from mrbridge.io.formats import is_picture
from mrbridge.io.transfer import fetch
from mrbridge.json_text import parse_json


def check_free(source: Path, output: Path) -> None:
    """Refuse to replace anything but an earlier synthesis.

    Args:
        source: the scan that is to be translated.
        output: where the synthesis is to go.

    Raises:
        OutputError: the scan itself, another image that does not say that mrbridge made it, or
            somebody else's sidecar would be replaced; or the scan's own sidecar would be that of
            the synthesis.
    """
    if output.resolve() == source.resolve():
        raise OutputError(
            "the output would replace its source", path=source, remedy="Name another."
        )
    if output.is_file() and not is_ours(output):
        raise OutputError(
            "is there already, and says nowhere that mrbridge made it",
            path=output,
            remedy="Name another place, or take it away first.",
        )
    if is_picture(output):
        return
    sidecar = sidecar_path(output)
    if sidecar.resolve() == sidecar_path(source).resolve():
        raise OutputError(
            "what is said of the synthesis would be said of its source",
            path=sidecar,
            remedy="Name another place.",
        )
    if sidecar.is_file() and not _is_of_synthesis(sidecar):
        raise OutputError(
            "describes something else than a synthesis",
            path=sidecar,
            remedy="Name another place, or take it away first.",
        )


def is_ours(image: Path) -> bool:
    """Whether an image says of itself that mrbridge made it."""
    try:
        scan = read(image)
    except MrbridgeError:
        return False
    if is_picture(image):
        return scan.synthetic
    return scan.synthetic and b"mrbridge" in scan.header["descrip"].item()


def _is_of_synthesis(sidecar: Path) -> bool:
    fetch(sidecar)
    try:
        told = parse_json(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and told.get("SyntheticData") is True
