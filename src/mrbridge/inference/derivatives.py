"""A BIDS data set of derivatives: what it says of itself, and what it has already.

Source: BIDS 1.10, "BIDS Derivatives" and "BIDS URI".
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from mrbridge import __version__
from mrbridge.errors import OutputError
from mrbridge.inference.synthesis import sidecar_path
from mrbridge.io import is_readable
from mrbridge.io.bids_metadata import DESCRIPTION, read_description
from mrbridge.io.bids_name import BIDS_VERSION
from mrbridge.io.ownership import is_our_json, is_ours, must_be_ours
from mrbridge.io.safety import sha256_of, write_json, write_text
from mrbridge.io.transfer import fetch
from mrbridge.json_text import parse_json
from mrbridge.urls import url_of

LINK = "raw"
"""The name of the source data set in BIDS URIs."""

REPORT = Path("report.json")
"""At the root, as for every other input; the standard does not know it, so `.bidsignore` does."""

_README = """# Synthetic images

Every image here was made by mrbridge from another scan of the same person: it was never acquired.
For research, not for diagnosis.

`desc-synth` in a name marks a synthesis. It lies on the grid of the scan that its sidecar names
under `Sources`; the sidecar also names the model by the SHA-256 of its weights.
`report.json` lists what was made, kept unchanged, left out and what failed.
"""
_DESCRIPTIONS = (
    "desc_id\tdescription\n"
    "desc-synth\tSynthetic image by mrbridge, made from the scan that its sidecar names\n"
)


def check_place(root: Path, out: Path) -> None:
    """Refuse a folder that derivatives of a data set must not be written into.

    Args:
        root: the source data set.
        out: where derivatives are to go.

    Raises:
        OutputError: it is the data set itself, lies among its raw scans, or is another data set.
    """
    inside, outer = out.resolve(), root.resolve()
    if inside == outer:
        raise OutputError("is the input itself", path=out, remedy="Name another output folder.")
    if out.suffix and is_readable(out):
        raise OutputError(
            "is the name of a file, but the input is a folder", path=out, remedy="Name a folder."
        )
    if outer in inside.parents and outer / "derivatives" not in inside.parents:
        raise OutputError(
            "lies among the raw scans",
            path=out,
            remedy=f"Name {root / 'derivatives' / 'mrbridge'}, or a folder outside.",
        )
    there = read_description(out)
    if there and not (there.get("DatasetType") == "derivative" and is_our_json(there)):
        raise OutputError(
            "is a data set that mrbridge did not make", path=out, remedy="Name another folder."
        )
    must_be_ours(out / REPORT)
    linked = _links(there).get(LINK)
    if isinstance(linked, str) and "://" not in linked:
        other = (out / unquote(linked)).resolve()
        if other.is_dir() and other != outer:
            raise OutputError(
                f"holds derivatives of another data set, {linked}",
                path=out,
                remedy="Name another folder.",
            )


def describe(root: Path, out: Path) -> None:
    """Write what a data set of derivatives says of itself; what a user added to it stays.

    Raises:
        InputError: what it says already is not JSON.
        OutputError: it cannot be written.
    """
    source, there = read_description(root, needed=False), read_description(out)
    link = _link(root, out)
    origin = {"URL": link}
    if isinstance(source.get("DatasetDOI"), str):
        origin["DOI"] = source["DatasetDOI"]
    told = {
        "Name": there.get("Name") or f"Synthetic images of: {source.get('Name') or 'a data set'}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": "mrbridge",
                "Version": __version__,
                "Description": "Synthetic images, for research, not for diagnosis",
            }
        ],
        "SourceDatasets": [origin],
        "DatasetLinks": {**_links(there), LINK: link},
    }
    if isinstance(source.get("License"), str):
        told["License"] = source["License"]
    if {**there, **told} != there:
        write_json(out / DESCRIPTION, {**there, **told})
    files = {"README": _README, "descriptions.tsv": _DESCRIPTIONS, ".bidsignore": f"{REPORT}\n"}
    for name, text in files.items():
        if not (out / name).exists():
            write_text(out / name, text)


def uri(scan: Path, root: Path) -> str:
    """The BIDS URI of a scan of the source data set."""
    return f"bids:{LINK}:{scan.relative_to(root).as_posix()}"


def fingerprint(scan: Path, model: str, options: dict[str, Any]) -> dict[str, Any]:
    """What a synthesis follows from.

    Args:
        scan: the source.
        model: SHA-256 of the weights.
        options: whatever else changes voxels.

    Raises:
        InputError: the scan cannot be read.
    """
    return {"Source": sha256_of(scan), "Model": model, "Options": options}


ELSEWHERE = "by another program"
"""What `difference` says of an image that mrbridge did not make."""


def difference(output: Path, made_of: dict[str, Any]) -> str | None:
    """How a synthesis that is there differs from the one that would be made.

    Returns:
        "" where it is the same, bit for bit; None where there is none, or an unfinished one; else
        what is different.
    """
    if not output.is_file():
        return None
    told = _fingerprint_in(sidecar_path(output))
    if told is None:  # killed between image and sidecar, or not ours
        return None if is_ours(output) else ELSEWHERE
    if told.get("SHA256") != sha256_of(output):
        return "and was changed since it was made" if is_ours(output) else ELSEWHERE
    names = {"Source": "of another source file", "Model": "by another model"}
    for key, value in made_of.items():
        if told.get(key) != value:
            return names.get(key, "with other options")
    return ""


def with_fingerprint(
    sidecar: dict[str, Any], made_of: dict[str, Any], output: Path
) -> dict[str, Any]:
    """A sidecar that also says what a synthesis follows from, and what it is."""
    return {**sidecar, "Fingerprint": {**made_of, "SHA256": sha256_of(output)}}


def _fingerprint_in(sidecar: Path) -> dict[str, Any] | None:
    fetch(sidecar)
    try:
        told = parse_json(sidecar.read_text(encoding="utf-8"))["Fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return told if isinstance(told, dict) else None


def _links(description: dict[str, Any]) -> dict[str, Any]:
    links = description.get("DatasetLinks")
    return links if isinstance(links, dict) else {}


def _link(root: Path, out: Path) -> str:
    """Where the source data set lies, seen from its derivatives: both may move together."""
    far, near = url_of(root), url_of(out)
    if far and _bucket(far) != _bucket(near or ""):
        return far
    if near and not far:
        return root.resolve().as_uri()
    try:
        relative = os.path.relpath(root.resolve(), out.resolve())
    except ValueError:  # on another drive
        return root.resolve().as_uri()
    return quote(Path(relative).as_posix())


def _bucket(url: str) -> list[str]:
    """The kind of a URL, and its bucket or host."""
    return url.split("/")[:3]
