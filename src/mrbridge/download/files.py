"""One remote file onto the disk: whole, checked, or absent.

What has come lies in `NAME.part` beside the final name, with `NAME.part.json` that says which state
of the remote file it is a part of; the next start goes on there.
"""

from __future__ import annotations

import hashlib
import re
import warnings
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mrbridge.download.http import Changed, Session, Version
from mrbridge.errors import InputError, MrbridgeWarning, OutputError
from mrbridge.io.safety import MAX_VOXELS, settle, suffix_of, write_json
from mrbridge.json_text import parse_json

MAX_UNPACKED = 4 * MAX_VOXELS
"""The most bytes that a `.nii.gz` may unpack to: a float32 volume of the most voxels allowed."""

_ANNEX = re.compile(r"^(MD5|SHA1|SHA256|SHA512)E?-s(\d+)--([0-9a-f]+)")
_BLOCK = 1 << 20
_ROUNDS = 3
_WORTH = 1 << 16  # bytes from which on a part is worth being kept for the next start
_UNLISTED = 1 << 30  # bytes after which nothing more is taken of a file without a listed size
_SURPLUS = 1 << 16  # bytes beyond the listed size after which nothing more is taken


@dataclass(frozen=True)
class Expected:
    """What is known of a file before it comes.

    Attributes:
        size: in bytes.
        algorithm, digest: the checksum, in hexadecimal, where the archive tells one.
    """

    size: int | None = None
    algorithm: str | None = None
    digest: str | None = None

    @classmethod
    def from_annex(cls, key: str) -> Expected | None:
        """What a git-annex key tells, such as `MD5E-s123--0cc1….nii.gz`; None where it is none.

        Source: https://git-annex.branchable.com/internals/key_format
        """
        match = _ANNEX.match(key)
        return cls(int(match[2]), match[1].lower(), match[3]) if match else None


def fetch(
    session: Session,
    url: str,
    path: Path,
    expected: Expected,
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Transfer a file to `path`, going on where an earlier try stopped.

    Args:
        session: the connections.
        url: where it is.
        path: its final name; its folder is made.
        expected: what it must be.
        advance: told how many bytes came; fewer than none where some must come again.

    Raises:
        InputError: it cannot be had, or what came is not what was expected, twice.
        OutputError: it cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    wrong: InputError | None = None
    for _ in range(_ROUNDS):
        try:
            version = _receive(session, url, part, expected, advance)
        except Changed:
            _give_up(part, advance)
            continue
        except OSError as error:
            raise OutputError(
                f"cannot be written ({error.strerror or error})",
                path=part,
                remedy="Check the free space, then run the same command again.",
            ) from error
        try:
            check(part, path, expected, version)
        except InputError as error:
            if wrong is not None:
                _give_up(part, advance)
                raise
            wrong = error
            _give_up(part, advance)
            continue
        settle(part, path)
        _note(part).unlink(missing_ok=True)
        return
    raise wrong or InputError(f"{url} changes while it is transferred", remedy="Try again later.")


def check(file: Path, path: Path, expected: Expected, version: Version) -> None:
    """Refuse what came where it is not what was expected: size, checksum, CRC.

    Args:
        file: what came.
        path: the name that it shall have, for its suffix and for messages.
        expected: what the archive's list says.
        version: what the server said when it sent the file.

    Raises:
        InputError: it differs.
    """
    size = file.stat().st_size
    if expected.digest and expected.algorithm:
        _compare(file, path, expected.algorithm, expected.digest)
    elif version.md5:
        _compare(file, path, "md5", version.md5)
    elif suffix_of(path) == ".nii.gz":
        check_gzip(file, path)
    if expected.size is not None and size != expected.size:
        what = f"has {size} bytes, its archive lists {expected.size}"
        # Texts that git keeps are at times listed with another size than the one they have.
        if version.md5 and suffix_of(path) not in (".nii", ".nii.gz"):
            warnings.warn(f"{path}: {what}", MrbridgeWarning, stacklevel=2)
        else:
            raise InputError(what, path=path, remedy="Try again later, or tell the archive.")


def check_gzip(file: Path, path: Path) -> None:
    """Unpack a `.nii.gz` to its end, where its CRC is, and throw the result away.

    Raises:
        InputError: damaged, truncated, or unpacking to more than `MAX_UNPACKED` bytes.
    """
    count, unpack = 0, zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK):
                while block:
                    if unpack.eof:  # gzip files may be joined, and padded with zeros
                        block = block.lstrip(b"\0")
                        if not block:
                            break
                        unpack = zlib.decompressobj(zlib.MAX_WBITS | 16)
                    count += len(unpack.decompress(block, _BLOCK))
                    block = unpack.unused_data if unpack.eof else unpack.unconsumed_tail
                    if count > MAX_UNPACKED:
                        raise InputError("unpacks to more than any scan", path=path)
    except zlib.error as error:
        raise InputError(f"came damaged ({error})", path=path, remedy="Try again later.") from None
    if not unpack.eof:
        raise InputError("came truncated", path=path, remedy="Try again later.")


def already_there(path: Path) -> int:
    """How many bytes of a file have come in earlier tries."""
    part = path.with_name(f"{path.name}.part")
    return part.stat().st_size if part.is_file() and _note(part).is_file() else 0


def _receive(
    session: Session,
    url: str,
    part: Path,
    expected: Expected,
    advance: Callable[[int], None],
) -> Version:
    part.parent.mkdir(parents=True, exist_ok=True)
    known = _read_note(part)
    start = part.stat().st_size if known is not None else 0
    advance(start)
    if known is not None and known.length is not None and start > known.length:
        raise Changed(url)
    reading = session.read(url, start, known)
    noted = known is not None
    most = _UNLISTED if expected.size is None else expected.size + _SURPLUS
    with part.open("ab" if noted else "wb") as file:
        for block in reading:
            if reading.position > most:
                break
            file.write(block)
            advance(len(block))
            if not noted and file.tell() >= _WORTH:
                write_json(_note(part), asdict(reading.version))
                noted = True
    if reading.position > most:
        reading.close()
        _give_up(part, advance)
        raise InputError(
            f"{url} sends more than "
            + (f"{most} bytes" if expected.size is None else f"the {expected.size} bytes")
            + " that its archive lists" * (expected.size is not None),
            remedy="Try again later, or tell the archive.",
        )
    return reading.version


def _compare(file: Path, path: Path, algorithm: str, digest: str) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, algorithm).hexdigest()
    if found != digest:
        raise InputError(
            f"has the {algorithm.upper()} {found}, it should have {digest}",
            path=path,
            remedy="Try again later, or tell the archive.",
        )


def _give_up(part: Path, advance: Callable[[int], None]) -> None:
    """Throw away what has come."""
    if part.is_file():
        advance(-part.stat().st_size)
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_note(part: Path) -> Version | None:
    """The state that a part belongs to; None where that cannot be told, so that it is no use."""
    try:
        told: dict[str, Any] = parse_json(_note(part).read_text(encoding="utf-8"))
        version = Version(**told)
    except (OSError, ValueError, TypeError):
        return None
    return version if part.is_file() and version.proof else None
