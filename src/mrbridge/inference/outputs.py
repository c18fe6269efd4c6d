"""Where a synthesis may be written: never over what somebody acquired."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mrbridge.errors import OutputError
from mrbridge.inference.synthesis import Synthesis, note, sidecar_path
from mrbridge.io import write
from mrbridge.io.formats import is_picture
from mrbridge.io.ownership import must_be_ours
from mrbridge.io.safety import paired, write_json


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
    must_be_ours(output)
    if is_picture(output):
        return
    sidecar = sidecar_path(output)
    if sidecar.resolve() == sidecar_path(source).resolve():
        raise OutputError(
            "what is said of the synthesis would be said of its source",
            path=sidecar,
            remedy="Name another place.",
        )
    must_be_ours(sidecar)


def write_synthesis(synthesis: Synthesis, output: Path, tell: Callable[[], dict[str, Any]]) -> None:
    """Write an image and its sidecar, which of a picture there is none.

    Args:
        synthesis: what was made.
        output: where it is to go; nothing but an earlier synthesis is replaced.
        tell: what the sidecar says, asked for when the image is written.

    Raises:
        OutputError: something else lies there, or it cannot be written.
    """
    mark = note(synthesis.contrast)
    must_be_ours(output)
    if synthesis.source.is_picture:
        write(synthesis.made, output, synthetic_note=mark)
        return
    sidecar = sidecar_path(output)
    must_be_ours(sidecar)
    with paired(output, sidecar):
        write(synthesis.made, output, synthetic_note=mark)
        write_json(sidecar, tell())
