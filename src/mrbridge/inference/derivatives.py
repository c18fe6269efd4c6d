"""The BIDS dataset that derivatives are written into: whether it may be, and its description.

Source: BIDS 1.10, "BIDS Derivatives" and "BIDS URI".
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from mrbridge import __version__
from mrbridge.errors import OutputError
from mrbridge.inference.batch import REPORT, check_output_folder
from mrbridge.io.atomic import write_json, write_text
from mrbridge.io.bids_name import BIDS_VERSION
from mrbridge.io.metadata import DESCRIPTION, read_description
from mrbridge.io.ownership import is_our_json, must_be_ours
from mrbridge.text import url_of

LINK = "raw"
"""The name of the source dataset in BIDS URIs."""

_HASHED = "ni:///sha-256;"
_USUAL = re.compile(r"\.\.||bids|data|dataset|(raw|source)([ _-]?data)?|ds\d{6}", re.IGNORECASE)
"""Folder names that cannot identify a person: those of the standard, of OpenNeuro, and of habit."""

_README = """# Synthetic images

mrbridge synthesised every image here from another scan of the same person: none was acquired.
For research, not for diagnosis.

`desc-synth` in a name marks a synthetic image. It is on the grid of the scan that its sidecar names
under `Sources`, unless its name has the entity `res`; the sidecar also names the model by the
SHA-256 of its weights.
`report.json` lists what was translated, kept unchanged, left out and what failed.
"""
_DESCRIPTIONS = (
    "desc_id\tdescription\n"
    "desc-synth\tSynthetic image by mrbridge, made from the scan that its sidecar names\n"
    "desc-uncertainty\tUncertainty of a synthetic image: half the width of the 90 % interval\n"
)


def check_derivatives(root: Path, out: Path) -> None:
    """Refuse a folder into which the derivatives of a dataset must not be written.

    Raises:
        OutputError: it is the dataset itself, is among its raw scans, or is another dataset.
    """
    check_output_folder(root, out)
    inside, outer = out.resolve(), root.resolve()
    if outer in inside.parents and outer / "derivatives" not in inside.parents:
        raise OutputError(
            "is among the raw scans",
            path=out,
            remedy=f"Name {root / 'derivatives' / 'mrbridge'}, or a folder outside.",
        )
    there = read_description(out)
    if there and not (there.get("DatasetType") == "derivative" and is_our_json(there)):
        raise OutputError(
            "is a dataset that mrbridge did not make", path=out, remedy="Name another folder."
        )
    must_be_ours(out / REPORT)
    linked = _links(there).get(LINK)
    if not isinstance(linked, str):
        return
    other = (out / unquote(linked)).resolve()
    if linked.startswith(_HASHED):
        is_other = linked != _hashed(read_description(root, needed=False))
    else:
        is_other = "://" not in linked and other.is_dir() and other != outer
    if is_other:
        raise OutputError(
            f"holds derivatives of another dataset, {linked}",
            path=out,
            remedy="Name another folder.",
        )


def describe(root: Path, out: Path) -> None:
    """Write the description of a dataset of derivatives; what a user added to it stays.

    Raises:
        InputError: the description that is there is not JSON.
        OutputError: it cannot be written.
    """
    source, there = read_description(root, needed=False), read_description(out)
    link = _link(root, out) or _hashed(source)
    origin = {} if link.startswith(_HASHED) else {"URL": link}
    if isinstance(source.get("DatasetDOI"), str):
        origin["DOI"] = source["DatasetDOI"]
    description = {
        "Name": there.get("Name") or f"Synthetic images of: {source.get('Name') or 'a dataset'}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": "mrbridge",
                "Version": __version__,
                "Description": "Synthetic images, for research, not for diagnosis",
            }
        ],
        "DatasetLinks": {**_links(there), LINK: link},
    }
    if isinstance(source.get("License"), str):
        description["License"] = source["License"]
    if origin:
        description["SourceDatasets"] = [origin]
    kept = {key: value for key, value in there.items() if key != "SourceDatasets"}
    if {**kept, **description} != there:
        write_json(out / DESCRIPTION, {**kept, **description})
    files = {"README": _README, "descriptions.tsv": _DESCRIPTIONS, ".bidsignore": f"{REPORT}\n"}
    for name, text in files.items():
        if not (out / name).exists():
            write_text(out / name, text)


def _links(description: dict[str, Any]) -> dict[str, Any]:
    links = description.get("DatasetLinks")
    return links if isinstance(links, dict) else {}


def _link(root: Path, out: Path) -> str | None:
    """Where the source dataset is, seen from its derivatives: both may move together.

    None if a name in that path may be a patient's: derivatives are passed on.
    """
    far, near = url_of(root), url_of(out)
    if far and _bucket(far) != _bucket(near or ""):
        host, path = _bucket(far)[-1], far.split("/")[3:]
        is_plain = not set("@?&") & set(host + far) and all(map(_USUAL.fullmatch, path))
        return far if is_plain else None
    if near and not far:
        return None
    try:
        relative = Path(os.path.relpath(root.resolve(), out.resolve()))
    except ValueError:  # on another drive
        return None
    return quote(relative.as_posix()) if all(map(_USUAL.fullmatch, relative.parts)) else None


def _hashed(description: dict[str, Any]) -> str:
    """A URI for a dataset that does not say where it is (RFC 6920), by its name and DOI."""
    identity = json.dumps([description.get("Name"), description.get("DatasetDOI")])
    digest = hashlib.sha256(identity.encode()).digest()
    return _HASHED + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _bucket(url: str) -> list[str]:
    """The kind of a URL, and its bucket or host."""
    return url.split("/")[:3]
