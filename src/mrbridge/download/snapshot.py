"""What a snapshot of OpenNeuro holds, of that what is wanted, and where it is.

The list of files is asked for folder by folder over GraphQL, and only where scans can be. Scans are
kept in git-annex, whose keys tell size and checksum.

Source: https://docs.openneuro.org/api.html ("Obtain dataset file trees").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from mrbridge.download.files import Expected
from mrbridge.download.folder import together
from mrbridge.download.http import Patience, Session
from mrbridge.errors import InputError
from mrbridge.io.bids_name import parse_name
from mrbridge.io.contrast import guess_contrast
from mrbridge.io.safety import suffix_of

SITE = "https://openneuro.org"

_ROOT_FILES = re.compile(
    r"^(dataset_description\.json|participants\.(tsv|json)|README(\.\w+)?|CHANGES|LICENSE|CITATION\.cff)$"
)
_DATASET = re.compile(r"^ds\d{6}$")
_LABEL = re.compile(r"^(sub|ses)-[a-zA-Z0-9+]+$")
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
    """A file or folder as OpenNeuro lists it (type DatasetFile of its schema).

    The id is that of a folder's git tree, or of a file's content: a git-annex key, or a git hash.
    """

    id: str
    filename: str
    size: int | None = None
    directory: bool | None = None
    urls: list[str | None] | None = None


class _Tagged(BaseModel):
    tag: str


class _Dataset(BaseModel):
    snapshots: list[_Tagged]
    latestSnapshot: _Tagged


class _Listed(BaseModel):
    files: list[_Entry]
    description: dict[str, Any] | None = None


Answer = TypeVar("Answer", bound=BaseModel)


@dataclass(frozen=True)
class RemoteFile:
    """A file of a snapshot: its path in the data set, where it is, and what is known of it."""

    path: str
    url: str
    expected: Expected


@dataclass(frozen=True)
class Snapshot:
    """A version of a data set, as far as it is wanted.

    Attributes:
        dataset, version: such as ds002330 and 1.1.0.
        about: what its dataset_description.json says, as the archive tells it.
        files: those that are wanted.
    """

    dataset: str
    version: str
    about: dict[str, Any]
    files: tuple[RemoteFile, ...]

    @property
    def licence(self) -> str:
        """As the data set states it."""
        stated = " ".join(str(self.about.get("License") or "").split())
        return stated or "not stated in dataset_description.json"

    @property
    def url(self) -> str:
        """Where people read about it."""
        return f"{SITE}/datasets/{self.dataset}/versions/{self.version}"


class Archive:
    """The GraphQL interface of an OpenNeuro server."""

    def __init__(self, session: Session, site: str = SITE) -> None:
        self._session = session
        self._url = f"{site.rstrip('/')}/crn/graphql"

    def find_version(self, dataset: str, version: str | None) -> str:
        """The version, where it exists; the newest where none is named.

        Raises:
            InputError: no such data set, or no such version of it.
        """
        if not _DATASET.match(dataset):
            raise InputError(
                f"'{dataset}' is not a data set of OpenNeuro",
                remedy="Its name is ds and six digits, such as ds002330.",
            )
        told = self._ask(_SNAPSHOTS, "dataset", _Dataset, dataset=dataset)
        tags = [snapshot.tag for snapshot in told.snapshots]
        if version is not None and version not in tags:
            raise InputError(
                f"{dataset} has no version {version}", remedy=f"It has {', '.join(tags)}."
            )
        return version or told.latestSnapshot.tag

    def list_files(
        self,
        dataset: str,
        version: str | None,
        contrasts: Sequence[str],
        subjects: Sequence[str] | None,
    ) -> Snapshot:
        """The wanted files of a snapshot.

        Args:
            dataset: such as ds002330.
            version: such as 1.1.0; None for the newest.
            contrasts: BIDS suffixes.
            subjects: labels without `sub-`; None for all.

        Raises:
            InputError: no such data set, version or subject; no such scans.
        """
        version = self.find_version(dataset, version)
        place = {"dataset": dataset, "tag": version}
        told = self._ask(_ABOUT, "snapshot", _Listed, **place)
        wanted: dict[str, RemoteFile] = {}
        folders = self._sort(told.files, "", contrasts, wanted)
        folders = _only(folders, subjects, dataset)
        while folders:  # level by level, so that the requests of one level can run side by side
            entries = self._list_folders(folders, place)
            folders = [
                below
                for folder in folders
                for below in self._sort(entries[folder], folder[0], contrasts, wanted)
            ]
        if not any(is_scan(path) for path in wanted):
            raise InputError(
                f"{dataset} {version} has no scans of {' or '.join(contrasts)} for these subjects",
                remedy="Choose another --contrast or other --subjects.",
            )
        about = {key: value for key, value in (told.description or {}).items() if value}
        return Snapshot(dataset, version, about, tuple(wanted.values()))

    def _list_folders(
        self, folders: Sequence[tuple[str, str]], place: dict[str, str]
    ) -> dict[tuple[str, str], list[_Entry]]:
        """What is in folders, each given by its path and its tree's id."""
        entries: dict[tuple[str, str], list[_Entry]] = {}

        def ask(folder: tuple[str, str]) -> None:
            entries[folder] = self._ask(_TREE, "snapshot", _Listed, **place, tree=folder[1]).files

        failed = together(
            folders,
            ask,
            workers=self._session.settings.workers,
            stop=self._session.stop,
            label=f"{place['dataset']} {place['tag']}: folders",
        )
        for error in failed.values():
            raise error
        return entries

    def _sort(
        self,
        entries: Sequence[_Entry],
        above: str,
        contrasts: Sequence[str],
        wanted: dict[str, RemoteFile],
    ) -> list[tuple[str, str]]:
        """Add a folder's wanted files to `wanted`; give its folders that may hold more."""
        folders = []
        for entry in entries:
            name = entry.filename
            is_name = name.isprintable() and name not in ("", ".", "..")
            if not is_name or "/" in name or "\\" in name:
                raise InputError(f"the archive lists a file with the name {name!a}")
            path = f"{above}/{name}" if above else name
            if entry.directory:
                if _may_hold_scans(path):
                    folders.append((path, entry.id))
            elif _is_wanted(path, contrasts):
                wanted[path] = self._file(path, entry)
        return folders

    def _file(self, path: str, entry: _Entry) -> RemoteFile:
        schemes = {"https", urlsplit(self._url).scheme}  # a mirror in the house may do without TLS
        urls = [url for url in entry.urls or [] if url and urlsplit(url).scheme in schemes]
        if not urls:
            raise InputError(f"the archive tells no address of {path}", remedy="Try again later.")
        return RemoteFile(path, urls[0], Expected.from_annex(entry.id) or Expected(entry.size))

    def _ask(self, query: str, key: str, kind: type[Answer], **variables: str) -> Answer:
        """What a query gives under `key`.

        A server that is busy also says so in the body of an answer that is fine otherwise.
        """
        patience = Patience(self._session, self._url)
        while True:
            told = self._session.ask(self._url, {"query": query, "variables": variables})
            errors = told.get("errors") if isinstance(told, dict) else None
            if not isinstance(errors, list) or not errors:
                return self._read(told, key, kind)
            message = str(errors[0].get("message")) if isinstance(errors[0], dict) else "an error"
            if not _PASSING.search(message):
                raise InputError(
                    f"OpenNeuro says: {message}", remedy="Check the data set's name and version."
                )
            patience.wait(message)

    def _read(self, told: Any, key: str, kind: type[Answer]) -> Answer:
        try:
            answer = told["data"][key]
            if answer is None:
                raise InputError("OpenNeuro has no such public data set", remedy="Check its name.")
            return kind.model_validate(answer)
        except (KeyError, TypeError, ValidationError):
            raise InputError(
                f"{self._url} answers in an unknown form", remedy="Check --mirror, or tell us."
            ) from None


def _only(
    folders: list[tuple[str, str]], subjects: Sequence[str] | None, dataset: str
) -> list[tuple[str, str]]:
    if subjects is None:
        return folders
    known = {path.removeprefix("sub-"): (path, tree) for path, tree in folders}
    absent = [label for label in subjects if label not in known]
    if absent:
        raise InputError(
            f"{dataset} has no subject {', '.join(absent)}",
            remedy=f"It has {', '.join(sorted(known)[:6])}{', …' if len(known) > 6 else ''}.",
        )
    return [known[label] for label in dict.fromkeys(subjects)]


def _may_hold_scans(path: str) -> bool:
    """Whether a folder is on the way to anat: sub-01, sub-01/ses-1, sub-01/anat."""
    *above, last = PurePosixPath(path).parts
    kinds = [part.split("-")[0] for part in above]
    if not all(_LABEL.match(part) for part in above):
        return False
    if last == "anat":
        return kinds in (["sub"], ["sub", "ses"])
    return bool(_LABEL.match(last)) and [*kinds, last.split("-")[0]] in (["sub"], ["sub", "ses"])


def is_scan(path: str) -> bool:
    """Whether a path is that of a NIfTI file."""
    return suffix_of(path) in (".nii", ".nii.gz")


def _is_wanted(path: str, contrasts: Sequence[str]) -> bool:
    """Scans of the contrasts, the sidecars that apply to them at any level, and what all share."""
    name = PurePosixPath(path).name
    if path == name and _ROOT_FILES.match(name):
        return True
    if suffix_of(name) == ".json":  # by inheritance also without entities: T1w.json
        return name.removesuffix(".json").split("_")[-1] in contrasts
    return is_scan(name) and parse_name(name) is not None and guess_contrast(name) in contrasts
