"""Single files: resumed, limited in size and verified."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from mrbridge.download.http import Damaged, FileState, Session, Stream
from mrbridge.io.atomic import settle, suffix_of, write_text
from mrbridge.volume import MAX_VOXELS

MAX_FILE = 1 << 28
"""Upper limit in bytes of one scan, and of a file that the archive lists without a size."""

MAX_UNPACKED = 4 * MAX_VOXELS
"""Upper limit in bytes of an unpacked `.nii.gz`: a float32 volume of the most voxels allowed."""

_ANNEX_KEY = re.compile(r"(MD5|SHA1|SHA256|SHA512)E?-s(\d{1,18})--([0-9a-f]+)")
_BLOCK = 1 << 18
_SURPLUS = 1 << 16  # bytes accepted beyond a listed size: that of texts in git may be wrong


@dataclass(frozen=True)
class Expected:
    """What an archive lists about a file.

    Attributes:
        size: in bytes.
        algorithm, digest: of its checksum, in hexadecimal.
    """

    size: int | None = None
    algorithm: str | None = None
    digest: str | None = None

    @classmethod
    def from_annex(cls, key: str) -> Expected | None:
        """Read a git-annex key such as `MD5E-s123--0cc1….nii.gz`; None for anything else.

        Source: https://git-annex.branchable.com/internals/key_format
        """
        match = _ANNEX_KEY.match(key)
        return cls(int(match[2]), match[1].lower(), match[3]) if match else None


def fetch(
    session: Session,
    url: str,
    path: Path,
    expected: Expected,
    advance: Callable[[int], object] = lambda count: None,
) -> None:
    """Download a file to `path`, or resume an earlier download of it.

    Unfinished content is in `NAME.part`, the remote file's state in `NAME.part.json`. A damaged
    or changed file is downloaded once more.

    Args:
        session: the connections.
        url: of the file.
        path: the final name. Its folder is created.
        expected: what the archive lists.
        advance: gets the number of bytes received; negative ones if they are discarded.

    Raises:
        InputError: it cannot be downloaded, or is damaged.
        OSError: it cannot be written.
    """
    part, note = _part_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for is_last in (False, True):
        try:
            _receive(session, url, part, note, expected, advance)
            if not is_scan(path) and expected.digest is None:
                expected = Expected()  # the size of texts in git is sometimes listed wrong
            problem = damage(part, expected, suffix_of(path))
            if problem:
                raise Damaged(problem, path=path, remedy="Try again later, or tell the archive.")
        except Damaged:
            advance(-part.stat().st_size if part.exists() else 0)
            part.unlink(missing_ok=True)
            note.unlink(missing_ok=True)
            if is_last:
                raise
        else:
            settle(part, path)
            note.unlink(missing_ok=True)
            return


def damage(file: Path, expected: Expected, suffix: str) -> str | None:
    """What is wrong with a file: its size, its checksum, or the CRC of a `.nii.gz` without one.

    Returns:
        A phrase such as "has 12 bytes instead of 15"; None if the file is intact.
    """
    size = file.stat().st_size
    if expected.size not in (None, size):
        return f"has {size} bytes instead of {expected.size}"
    if expected.digest and expected.algorithm:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, expected.algorithm).hexdigest()
        if digest != expected.digest:
            name = expected.algorithm.upper()
            return f"is damaged: its {name} is {digest} instead of {expected.digest}"
    elif suffix == ".nii.gz":
        count = 0
        try:
            with gzip.open(file) as unpacked:
                while block := unpacked.read(_BLOCK):
                    count += len(block)
                    if count > MAX_UNPACKED:
                        return "is larger than any scan once unpacked"
        except EOFError:
            return "is truncated"
        except (gzip.BadGzipFile, zlib.error) as error:
            return f"is damaged ({error})"
        if not count:
            return "is empty"
    return None


def is_scan(path: str | Path) -> bool:
    """Whether a path is that of a NIfTI file."""
    return suffix_of(path) in (".nii", ".nii.gz")


def received(path: Path) -> int:
    """Number of bytes of an unfinished file that a new run does not download again."""
    part, note = _part_of(path)
    return part.stat().st_size if part.is_file() and note.is_file() else 0


def _receive(
    session: Session,
    url: str,
    part: Path,
    note: Path,
    expected: Expected,
    advance: Callable[[int], object],
) -> None:
    """Add to `part` what is missing."""
    state = None
    with suppress(OSError, ValueError):  # without a readable note the part is of no use
        noted = FileState.model_validate_json(note.read_bytes())
        state = noted if noted.validator and part.is_file() else None
    start = part.stat().st_size if state else 0
    advance(start)
    if state and state.length is not None and start > state.length:
        raise Damaged(f"{part} is longer than {url}")
    limit = MAX_FILE if expected.size is None else expected.size + _SURPLUS
    stream = Stream(session, url, position=start, state=state, limit=limit, advance=advance)
    with closing(stream), part.open("ab" if state else "wb") as file:
        while block := stream.read1(_BLOCK):
            if stream.state and not state:
                state = stream.state
                write_text(note, state.model_dump_json())
            file.write(block)


def _part_of(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")
