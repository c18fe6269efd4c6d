"""OpenNeuro: the scans of some contrasts in one snapshot of a dataset, with their metadata.

The files are listed folder by folder over GraphQL, only where scans can be. OpenNeuro keeps scans
in git-annex, whose keys contain size and checksum.

Source: https://docs.openneuro.org/api.html ("Obtain dataset file trees"); licence:
https://docs.openneuro.org/faq.html.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from mrbridge import progress
from mrbridge.download.folder import (
    Expected,
    Folder,
    Plan,
    Report,
    damage,
    fetch,
    in_parallel,
    is_scan,
    received,
    write_citation,
)
from mrbridge.download.http import Busy, Session
from mrbridge.download.settings import DownloadSettings
from mrbridge.errors import InputError, SettingsError
from mrbridge.io.atomic import suffix_of, write_text
from mrbridge.io.bids_name import parse_name
from mrbridge.io.contrast import guess_contrast
from mrbridge.volume import CONTRASTS

SITE = "https://openneuro.org"
TERMS = (
    "OpenNeuro releases newly published datasets, and new versions of older ones, under CC0 "
    "(https://docs.openneuro.org/faq.html)"
)

log = logging.getLogger(__name__)

_TOP_FILES = re.compile(
    r"dataset_description\.json|participants\.(tsv|json)|README(\.\w+)?|CHANGES|LICENSE"
    r"|CITATION\.cff"
)
# The folders on the way to scans: sub-01, sub-01/ses-1, sub-01/anat, sub-01/ses-1/anat.
_FOLDERS = re.compile(r"sub-[a-zA-Z0-9+]+(/ses-[a-zA-Z0-9+]+)?(/anat)?")
_MOST_NAME_BYTES = 240
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


class _Tag(BaseModel):
    tag: str


class _Dataset(BaseModel):
    snapshots: list[_Tag]
    latestSnapshot: _Tag


class _Listing(BaseModel):
    files: list[_Entry]
    description: dict[str, Any] | None = None


Answer = TypeVar("Answer", bound=BaseModel)


@dataclass(frozen=True)
class _File:
    """A wanted file of a snapshot: its path in the dataset, its address, what is listed."""

    path: str
    url: str
    expected: Expected


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
    with Session(settings) as session:
        return _download(session, dataset, out, version)


def _download(session: Session, dataset: str, out: Path, version: str | None) -> Report:
    settings = session.settings
    contrasts, subjects = settings.contrast, settings.subjects
    unknown = [contrast for contrast in contrasts if contrast not in CONTRASTS]
    if unknown:
        raise SettingsError(
            f"'{unknown[0]}' is not a contrast that mrbridge knows",
            remedy=f"Known: {', '.join(CONTRASTS)}.",
        )
    begun = Folder(out, source="openneuro", dataset=dataset).record.get("version")
    server = _Server(session, settings.mirror or SITE)
    version = server.find_version(dataset, version or begun)
    folder = Folder(out, source="openneuro", dataset=dataset, version=version)
    labels = None if subjects is None else [label.removeprefix("sub-") for label in subjects]
    files, about = server.list_files(dataset, version, contrasts, labels)
    url = f"{SITE}/datasets/{dataset}/versions/{version}"
    licence = " ".join(str(about.get("License") or "").split())
    missing = files
    if not settings.overwrite:
        intact: set[_File] = set()
        in_parallel(session, files, partial(_verify, out, intact), f"Verifying {dataset}")
        missing = [file for file in files if file not in intact]
    elif out.is_dir():  # tables and descriptions that users may have edited stay
        missing = [file for file in files if is_scan(file.path) or not (out / file.path).exists()]
    missing_bytes = sum((f.expected.size or 0) - received(out / f.path) for f in missing)
    plan = Plan(
        title=f"{dataset} {version}",
        files=len(files),
        bytes=sum(file.expected.size or 0 for file in files),
        missing_files=len(missing),
        missing_bytes=missing_bytes,
        licence=licence or "not stated in dataset_description.json",
    )
    folder.require_space(missing_bytes)
    failed: dict[str, str] = {}
    if not settings.dry_run:
        log.info("%s", plan)
        with folder.writing():
            folder.save(url=url)
            _write_licence(out, plan, url, about, {file.path for file in files})
            with progress.transfer(plan.title, sum(f.expected.size or 0 for f in missing)) as step:
                errors = in_parallel(
                    session,
                    missing,
                    lambda file: fetch(session, file.url, out / file.path, file.expected, step),
                )
            failed = {file.path: str(error) for file, error in errors.items()}
    absent = {file.path for file in missing} if settings.dry_run else set(failed)
    scans = sum(is_scan(file.path) and file.path not in absent for file in files)
    return Report(str(out), plan, scans, failed, settings.dry_run)


def _verify(out: Path, intact: set[_File], file: _File) -> None:
    """Add a file to `intact` if it is there; a scan also has the listed size and checksum."""
    path = out / file.path
    if path.is_file():
        if is_scan(path) and damage(path, file.expected, suffix_of(path)):
            log.warning("%s: is damaged; it is downloaded again", path)
        else:
            intact.add(file)


class _Server:
    """The GraphQL interface of OpenNeuro."""

    def __init__(self, session: Session, site: str) -> None:
        self._session = session
        self._url = f"{site.rstrip('/')}/crn/graphql"

    def find_version(self, dataset: str, version: str | None) -> str:
        """The version if it exists; the newest if it is None.

        Raises:
            InputError: no such dataset or version.
        """
        if not re.fullmatch(r"ds[0-9]{6}", dataset):
            raise InputError(
                f"'{dataset}' is not a dataset of OpenNeuro",
                remedy="Its name is ds and six digits, such as ds002330.",
            )
        answer = self._ask(_SNAPSHOTS, "dataset", _Dataset, dataset=dataset)
        tags = [snapshot.tag for snapshot in answer.snapshots]
        if version is not None and version not in tags:
            raise InputError(
                f"{dataset} has no version {version}", remedy=f"It has {', '.join(tags)}."
            )
        return version or answer.latestSnapshot.tag

    def list_files(
        self,
        dataset: str,
        version: str,
        contrasts: Sequence[str],
        subjects: Sequence[str] | None,
    ) -> tuple[list[_File], dict[str, Any]]:
        """The wanted files of a snapshot, and its description as the server has it.

        Raises:
            InputError: no such subject or scan.
        """
        snapshot = {"dataset": dataset, "tag": version}
        files: dict[str, _File] = {}

        def add(parent: str, entries: Sequence[_Entry]) -> dict[str, str]:
            """Add the wanted files of a folder; return the trees of its folders."""
            trees = {}
            for entry in entries:
                path = f"{parent}{_checked(entry.filename)}"
                if entry.directory and _FOLDERS.fullmatch(path):
                    trees[path] = entry.id
                elif not entry.directory and _is_wanted(path, contrasts):
                    files[path] = self._file(path, entry)
            return trees

        def walk(folder: tuple[str, str]) -> None:
            path, tree = folder
            listing = self._ask(_TREE, "snapshot", _Listing, **snapshot, tree=tree)
            for below in add(f"{path}/", listing.files).items():
                walk(below)

        top = self._ask(_ABOUT, "snapshot", _Listing, **snapshot)
        folders = _only(add("", top.files), subjects, dataset)
        errors = in_parallel(self._session, list(folders.items()), walk, f"Listing {dataset}")
        for error in errors.values():
            raise error
        if not any(map(is_scan, files)):
            raise InputError(
                f"{dataset} {version} has no scans of {' or '.join(contrasts)} for these subjects",
                remedy="Choose another --contrast or other --subjects.",
            )
        return [files[path] for path in sorted(files)], top.description or {}

    def _file(self, path: str, entry: _Entry) -> _File:
        schemes = {"https", self._url.partition(":")[0]}  # a local mirror may have no TLS
        for url in entry.urls or []:
            if url and url.partition(":")[0] in schemes:
                return _File(path, url, Expected.from_annex(entry.id) or Expected(entry.size))
        raise InputError(f"the archive lists no address of {path}", remedy="Try again later.")

    def _ask(self, query: str, key: str, model: type[Answer], **variables: str) -> Answer:
        """The answer to a query under `key`."""
        body = {"query": query, "variables": variables}
        answer = self._session.post(self._url, body, _raise_errors)
        try:
            value = answer["data"][key]
            if value is None:
                raise InputError("OpenNeuro has no such public dataset", remedy="Check its name.")
            return model.model_validate(value)
        except (KeyError, TypeError, ValidationError):
            raise InputError(
                f"{self._url} answers in an unknown form", remedy="Check --mirror, or report this."
            ) from None


def _raise_errors(answer: Any) -> None:
    """Raise the error of a GraphQL answer; a busy server reports it with status 200."""
    errors = answer.get("errors") if isinstance(answer, dict) else None
    if isinstance(errors, list) and errors:
        message = str(errors[0].get("message")) if isinstance(errors[0], dict) else "an error"
        if _PASSING.search(message):
            raise Busy(message)
        raise InputError(
            f"OpenNeuro answers: {message}", remedy="Check the dataset's name and version."
        )


def _checked(name: str) -> str:
    """A name from a listing, if it is that of a file in one folder."""
    is_plain = name.isprintable() and name not in ("", ".", "..")
    if not is_plain or "/" in name or "\\" in name or len(os.fsencode(name)) > _MOST_NAME_BYTES:
        raise InputError(f"the archive lists a file with the name {name!a}")
    return name


def _only(folders: dict[str, str], subjects: Sequence[str] | None, dataset: str) -> dict[str, str]:
    """The folders of the named subjects."""
    if subjects is None:
        return folders
    absent = [label for label in subjects if f"sub-{label}" not in folders]
    if absent:
        known = sorted(path.removeprefix("sub-") for path in folders)
        raise InputError(
            f"{dataset} has no subject {', '.join(absent)}",
            remedy=f"It has {', '.join(known[:6])}{', …' if len(known) > 6 else ''}.",
        )
    return {f"sub-{label}": folders[f"sub-{label}"] for label in subjects}


def _is_wanted(path: str, contrasts: Sequence[str]) -> bool:
    """Whether a file is a scan of the contrasts, a sidecar of one at any level, or metadata."""
    name = PurePosixPath(path).name
    if path == name and _TOP_FILES.fullmatch(name):
        return True
    if suffix_of(name) == ".json":  # also without entities, by inheritance: T1w.json
        return name.removesuffix(".json").split("_")[-1] in contrasts
    return is_scan(name) and parse_name(name) is not None and guess_contrast(name) in contrasts


def _write_licence(out: Path, plan: Plan, url: str, about: dict[str, Any], own: set[str]) -> None:
    """Write licence and citation, unless they exist or the dataset has its own."""
    dataset, _, version = plan.title.partition(" ")
    name = str(about.get("Name") or dataset)
    if "LICENSE" not in own and not (out / "LICENSE").exists():
        text = (
            f"{name} ({dataset}, version {version}, {url})\n\n"
            f"Licence in its dataset_description.json: {plan.licence}\n{TERMS}.\n"
        )
        if about.get("HowToAcknowledge"):
            text += f"\nHow to acknowledge: {about['HowToAcknowledge']}\n"
        write_text(out / "LICENSE", text)
    if "CITATION.cff" not in own and not (out / "CITATION.cff").exists():
        authors = about.get("Authors")
        authors = [str(name) for name in authors if name] if isinstance(authors, list) else []
        doi = str(about.get("DatasetDOI") or "").removeprefix("doi:")
        more = {"version": version} | ({"doi": doi} if doi.startswith("10.") else {})
        if plan.licence.upper() in ("CC0", "CC0-1.0"):
            more["license"] = "CC0-1.0"
        write_citation(
            out,
            title=name,
            url=url,
            authors=authors or [f"The authors of {dataset}"],
            **more,
        )
