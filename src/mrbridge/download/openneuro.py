"""OpenNeuro: the scans of some contrasts in one snapshot of a dataset, with their metadata.

The files are listed folder by folder over GraphQL, only where scans can be. OpenNeuro keeps scans
in git-annex, whose keys contain size and checksum.

Source: https://docs.openneuro.org/api.html ("Obtain dataset file trees"); licence:
https://docs.openneuro.org/faq.html.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

from mrbridge.download.fetch import Busy, RemoteFile, Session, in_parallel
from mrbridge.download.folder import Folder, Report
from mrbridge.download.settings import DownloadSettings
from mrbridge.errors import InputError, SettingsError
from mrbridge.io.atomic import suffix_of, write_text
from mrbridge.io.bids_name import parse_name
from mrbridge.io.contrast import guess_contrast
from mrbridge.reports import some
from mrbridge.volume import CONTRASTS

SITE = "https://openneuro.org"
TERMS = (
    "OpenNeuro releases newly published datasets, and new versions of older ones, under CC0 "
    "(https://docs.openneuro.org/faq.html)"
)

_TOP_FILES = re.compile(
    r"dataset_description\.json|participants\.(tsv|json)|README(\.\w+)?|CHANGES|LICENSE"
    r"|CITATION\.cff"
)
# The folders on the way to scans: sub-01, sub-01/ses-1, sub-01/anat, sub-01/ses-1/anat.
_FOLDERS = re.compile(r"sub-[a-zA-Z0-9+]+(/ses-[a-zA-Z0-9+]+)?(/anat)?")
_MOST_NAME_BYTES = 240
# https://git-annex.branchable.com/internals/key_format, such as MD5E-s123--0cc1….nii.gz
_ANNEX_KEY = re.compile(r"(MD5|SHA1|SHA256|SHA512)E?-s(\d{1,18})--([0-9a-f]+)")
_PASSING = re.compile(r"^(502|504)|ECONNREFUSED|timeout$|^fetch failed$")
_FIELDS = "id filename size directory urls"
_SNAPSHOTS = (
    "query ($dataset: ID!) { dataset(id: $dataset) "
    "{ id snapshots { tag } latestSnapshot { tag } } }"
)
_ABOUT = (
    "query ($dataset: ID!, $tag: String!) { snapshot(datasetId: $dataset, tag: $tag) { id tag "
    "description { Name License Authors DatasetDOI HowToAcknowledge } "
    f"files {{ {_FIELDS} }} }} }}"
)
_TREE = (
    "query ($dataset: ID!, $tag: String!, $tree: String) { "
    f"snapshot(datasetId: $dataset, tag: $tag) {{ files(tree: $tree) {{ {_FIELDS} }} }} }}"
)


class _Entry(BaseModel):
    """A file or folder (DatasetFile in OpenNeuro's schema).

    The id is a folder's git tree, or a file's git-annex key or git hash.
    """

    id: str
    filename: str
    size: int | None = Field(default=None, ge=0)
    directory: bool | None = None
    urls: list[str | None] | None = None


class _Error(BaseModel):
    message: str


class _Answer(BaseModel):
    errors: list[_Error] | None = None
    data: dict[str, Any] | None = None


class _Dataset(BaseModel):
    snapshots: list[dict[Literal["tag"], str]]
    latestSnapshot: dict[Literal["tag"], str]


class _Listing(BaseModel):
    files: list[_Entry]
    description: dict[str, Any] | None = None


Value = TypeVar("Value", bound=BaseModel)


def download(
    dataset: str, out: Path, settings: DownloadSettings, *, version: str | None = None
) -> Report:
    """Download the scans of some contrasts of a dataset, with their metadata.

    Args:
        dataset: accession number such as ds002330.
        out: the folder, which becomes a BIDS dataset.
        settings: contrasts as BIDS suffixes; subjects with or without `sub-`; as mirror the
            address of the server.
        version: such as 1.1.0; None for the one in the folder, or else the newest.

    Raises:
        SettingsError: mrbridge does not know the contrast.
        InputError: no such dataset, version, subject or scan, or the server cannot be reached.
        OutputError: the folder contains something else, or the disk is full.
        Interrupted: Ctrl-C or SIGTERM.
    """
    for contrast in settings.contrast:
        if contrast not in CONTRASTS:
            raise SettingsError(
                f"'{contrast}' is not a contrast that mrbridge knows",
                remedy=f"Known: {', '.join(CONTRASTS)}.",
            )
    if not re.fullmatch(r"ds[0-9]{6}", dataset):
        raise InputError(
            f"'{dataset}' is not a dataset of OpenNeuro",
            remedy="Its name is ds and six digits, such as ds002330.",
        )
    begun = Folder(out, source="openneuro", dataset=dataset).record.version
    with Session(settings) as session:
        server = _Server(session, dataset, version or begun)
        folder = Folder(out, source="openneuro", dataset=dataset, version=server.version)
        files, about = server.list_files()
        title = f"{dataset} {server.version}"
        licence = " ".join(str(about.get("License") or "").split())
        licence = licence or "not stated in dataset_description.json"

        def describe() -> None:
            present = {file.path for file in files} | {path.name for path in out.iterdir()}
            for name, text in _texts(dataset, server.version, licence, about).items():
                if name not in present:
                    write_text(out / name, text)

        return folder.download(session, title, licence, files, describe)


class _Server:
    """The GraphQL interface of OpenNeuro, and one version of a dataset there.

    Attributes:
        version: the requested one, or the newest.
    """

    def __init__(self, session: Session, dataset: str, version: str | None) -> None:
        """Look the version up; InputError if there is no such dataset or version."""
        self._session = session
        self._url = f"{(session.settings.mirror or SITE).rstrip('/')}/crn/graphql"
        answer = self._ask(_SNAPSHOTS, "dataset", _Dataset, dataset=dataset)
        tags = [snapshot["tag"] for snapshot in answer.snapshots]
        if version is not None and version not in tags:
            raise InputError(
                f"{dataset} has no version {version}", remedy=f"It has {', '.join(tags)}."
            )
        self.version = version or answer.latestSnapshot["tag"]
        self._snapshot = {"dataset": dataset, "tag": self.version}

    def list_files(self) -> tuple[list[RemoteFile], dict[str, Any]]:
        """The wanted files, and the description of the dataset as the server has it; InputError if
        there is no such subject or scan."""
        settings, dataset = self._session.settings, self._snapshot["dataset"]
        files: dict[str, RemoteFile] = {}

        def add(parent: str, entries: Sequence[_Entry]) -> dict[str, str]:
            """Add the wanted files of a folder; return the trees of its folders."""
            trees = {}
            for entry in entries:
                path = f"{parent}{_checked(entry.filename)}"
                if entry.directory and _FOLDERS.fullmatch(path):
                    trees[path] = entry.id
                elif not entry.directory and _is_wanted(path, settings.contrast):
                    files[path] = self._file(path, entry)
            return trees

        def walk(folder: tuple[str, str]) -> None:
            path, tree = folder
            listing = self._ask(_TREE, "snapshot", _Listing, **self._snapshot, tree=tree)
            for below in add(f"{path}/", listing.files).items():
                walk(below)

        top = self._ask(_ABOUT, "snapshot", _Listing, **self._snapshot)
        folders = _only(add("", top.files), settings.subjects, dataset)
        errors = in_parallel(self._session, folders, walk, f"Listing {dataset}")
        for error in errors.values():
            raise error
        if not any(file.is_scan for file in files.values()):
            contrasts = " or ".join(settings.contrast)
            raise InputError(
                f"{dataset} {self.version} has no scans of {contrasts} for these subjects",
                remedy="Choose another --contrast or other --subjects.",
            )
        return [files[path] for path in sorted(files)], top.description or {}

    def _file(self, path: str, entry: _Entry) -> RemoteFile:
        schemes = {"https", self._url.partition(":")[0]}  # a local mirror may have no TLS
        for url in entry.urls or []:
            if url and url.partition(":")[0] in schemes:
                key = _ANNEX_KEY.match(entry.id)
                if key is None:
                    return RemoteFile(url, path, entry.size)
                return RemoteFile(url, path, int(key[2]), key[3], key[1].lower())
        raise InputError(f"the archive lists no address of {path}", remedy="Try again later.")

    def _ask(self, query: str, key: str, model: type[Value], **variables: str) -> Value:
        """What the server answers to a query under `key`."""
        body = {"query": query, "variables": variables}
        return self._session.retry(self._send, body, key, model)

    def _send(self, body: dict[str, Any], key: str, model: type[Value]) -> Value:
        content, response = self._session.read("POST", self._url, json=body)
        try:
            answer = _Answer.model_validate_json(content)
            for error in answer.errors or ():  # also of a busy server, with status 200
                if _PASSING.search(error.message):
                    raise Busy(self._url, error.message)
                remedy = "Check the dataset's name and version."
                raise InputError(f"OpenNeuro answers: {error.message}", remedy=remedy)
            value = (answer.data or {})[key]
            if value is None:
                raise InputError("OpenNeuro has no such public dataset", remedy="Check its name.")
            return model.model_validate(value)
        except (KeyError, ValidationError):
            raise InputError(
                f"{self._url} answers in an unknown form (status {response.status_code})",
                remedy="Check --mirror, or report this.",
            ) from None


def _checked(name: str) -> str:
    """A name from a listing, if it is that of a file in one folder."""
    is_plain = name.isprintable() and name not in ("", ".", "..")
    if not is_plain or "/" in name or "\\" in name or len(os.fsencode(name)) > _MOST_NAME_BYTES:
        raise InputError(f"the archive lists a file with the name {name!a}")
    return name


def _only(
    trees: dict[str, str], subjects: Sequence[str] | None, dataset: str
) -> list[tuple[str, str]]:
    """The folders of the named subjects, and their trees."""
    if subjects is None:
        return list(trees.items())
    wanted = [f"sub-{label.removeprefix('sub-')}" for label in subjects]
    absent = [path.removeprefix("sub-") for path in wanted if path not in trees]
    if absent:
        known = sorted(path.removeprefix("sub-") for path in trees)
        raise InputError(
            f"{dataset} has no subject {', '.join(absent)}",
            remedy=f"It has {some(known, 6)}.",
        )
    return [(path, trees[path]) for path in wanted]


def _is_wanted(path: str, contrasts: Sequence[str]) -> bool:
    """Whether a file is a scan of the contrasts, a sidecar of one at any level, or metadata."""
    name = PurePosixPath(path).name
    if path == name and _TOP_FILES.fullmatch(name):
        return True
    if name.endswith(".json"):  # also without entities, by inheritance: T1w.json
        return name.removesuffix(".json").split("_")[-1] in contrasts
    is_scan = suffix_of(name) in (".nii", ".nii.gz")
    return is_scan and parse_name(name) is not None and guess_contrast(name) in contrasts


def _texts(dataset: str, version: str, licence: str, about: dict[str, Any]) -> dict[str, str]:
    """Licence and citation by file name, for a dataset that has none of its own.

    Source of the citation's form: https://github.com/citation-file-format/citation-file-format
    (1.2.0); BIDS allows it at the top of a dataset.
    """
    name, url = str(about.get("Name") or dataset), f"{SITE}/datasets/{dataset}/versions/{version}"
    text = (
        f"{name} ({dataset}, version {version}, {url})\n\n"
        f"Licence in its dataset_description.json: {licence}\n{TERMS}.\n"
    )
    if about.get("HowToAcknowledge"):
        text += f"\nHow to acknowledge: {about['HowToAcknowledge']}\n"
    authors, doi = about.get("Authors"), str(about.get("DatasetDOI") or "").removeprefix("doi:")
    authors = [str(one) for one in authors if one] if isinstance(authors, list) else []
    citation = {
        "cff-version": "1.2.0",
        "message": "If you use this dataset, please cite it.",
        "type": "dataset",
        "title": name,
        "authors": [{"name": one} for one in authors or [f"The authors of {dataset}"]],
        "version": version,
        **({"doi": doi} if doi.startswith("10.") else {}),
        **({"license": "CC0-1.0"} if licence.upper() in ("CC0", "CC0-1.0") else {}),
        "url": url,
    }
    cff = yaml.safe_dump(citation, sort_keys=False, allow_unicode=True)
    return {"LICENSE": text, "CITATION.cff": cff}
