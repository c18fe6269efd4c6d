"""A tar file that is read while it comes, and passed over where it is not wanted.

Nothing of it is believed: names choose no path, sizes are limited, and its end is looked for.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

from mrbridge.download.http import Reading, Session, Version
from mrbridge.errors import InputError

MAX_MEMBER = 1 << 28
"""The most bytes of one scan in an archive; those of IXI have about 10 MB."""

MAX_MEMBERS = 100_000
"""The most entries of an archive."""

BLOCK = 512
"""Bytes of a tar block: an entry's header, and what its content is padded to."""

_LONGEST_READ = 1 << 20  # also what tarfile may ask for to read a long name
_PEEK = 8 * BLOCK  # bytes that are asked for where an entry begins: its header, and some more
_NEAR = 1 << 20  # bytes that are quicker to read through than to ask for another part


class RemoteTar:
    """The entries of a remote tar file from a byte on.

    Args:
        session: the connections.
        url: where it is.
        start: the first byte of an entry's header.
        known: the state that the file must have; `http.Changed` is raised where it differs.
        advance: told how many bytes of the file were read or passed over.
    """

    def __init__(
        self,
        session: Session,
        url: str,
        start: int,
        known: Version,
        advance: Callable[[int], None],
    ) -> None:
        self.url = url
        self._stream = _Stream(session, url, start, known, advance)

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        """Headers, one by one.

        Raises:
            InputError: this is not a tar file, or it ends without the end that a tar file has.
        """
        try:
            with tarfile.open(fileobj=self._stream, mode="r:") as tar:  # type: ignore[call-overload]
                for count, member in enumerate(tar):
                    if count >= MAX_MEMBERS:
                        raise InputError(f"{self.url} has more than {MAX_MEMBERS} entries")
                    yield member
        except tarfile.TarError as error:
            raise self._damaged(str(error)) from None
        # tarfile takes a header that it cannot read for the end.
        if self._stream.last != bytes(BLOCK):
            raise self._damaged(f"no header at byte {self._stream.tell() - BLOCK}")

    def content(self, member: tarfile.TarInfo) -> Iterator[bytes]:
        """The bytes of the entry that came last, in blocks.

        Raises:
            InputError: the archive ends within it.
        """
        left = member.size
        self._stream.seek(member.offset_data)
        while left:
            block = self._stream.read(min(left, _LONGEST_READ))
            if not block:
                raise self._damaged(f"it ends within {member.name!a}")
            left -= len(block)
            yield block

    def close(self) -> None:
        """Let go of the connection."""
        self._stream.close()

    def _damaged(self, why: str) -> InputError:
        return InputError(
            f"{self.url} is not a complete tar file ({why})", remedy="Try again later."
        )


def end_of(member: tarfile.TarInfo) -> int:
    """The byte after an entry and its padding: where the next header is."""
    return member.offset_data + -(-member.size // BLOCK) * BLOCK


def why_refused(member: tarfile.TarInfo) -> str | None:
    """Why an entry has no business in an archive of scans; None where it is a file or a folder."""
    name = PurePosixPath(member.name.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts:
        return "its name leads out of the folder"
    if member.isdir():
        return None
    if not member.isreg() or member.issparse():
        return "it is not a regular file"
    if member.size > MAX_MEMBER:
        return f"it has {member.size} bytes, more than any scan"
    return None


class _Stream:
    """What tarfile reads from: forward only, near gaps read through, wide ones not transferred."""

    def __init__(
        self,
        session: Session,
        url: str,
        start: int,
        known: Version,
        advance: Callable[[int], None],
    ) -> None:
        self.last = b""
        self._session, self._url, self._known = session, url, known
        self._advance = advance
        self._position = start  # the byte that is asked for next
        self._pending = b""  # from there on, what has come already
        self._reading: Reading | None = None
        self._peek_end: int | None = None

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        gap = position - self._position
        if gap < 0:
            raise InputError(f"{self._url} is not a tar file: its entries lie over one another")
        length = self._known.length
        if length is not None and position > length:
            raise InputError(
                f"{self._url} is not a complete tar file (an entry ends beyond its end)"
            )
        if gap > _NEAR:
            if self._peek_end is not None and self._reading is not None:
                for _ in self._reading:  # an answer that is read to its end leaves the line open
                    pass
            self.close()
            self._position = position
            # Most often only a header is wanted here; more would come in vain.
            self._peek_end = position + _PEEK
            self._advance(gap)
        while self._position < position and self.read(
            min(position - self._position, _LONGEST_READ)
        ):
            pass

    def read(self, count: int) -> bytes:
        if not 0 <= count <= _LONGEST_READ:
            raise InputError(f"{self._url} is not a tar file of scans: a header of {count} bytes")
        parts, missing = [self._pending], count - len(self._pending)
        while missing > 0 and (block := self._next(self._position + count - missing)):
            parts.append(block)
            missing -= len(block)
        came = b"".join(parts)
        self.last, self._pending = came[:count], came[count:]
        self._position += len(self.last)
        self._advance(len(self.last))
        return self.last

    def _next(self, start: int) -> bytes | None:
        """What comes from byte `start` on; nothing at the end of the file."""
        if self._reading is None:
            self._reading = self._session.read(self._url, start, self._known, self._peek_end)
        block = next(self._reading, None)
        if block is None and self._peek_end is not None and start >= self._peek_end:
            self._reading = self._peek_end = None
            return self._next(start)
        return block

    def close(self) -> None:
        if self._reading is not None:
            self._reading.close()
        self._reading = self._peek_end = None
        self._pending = b""


@contextmanager
def open_tar(
    session: Session,
    url: str,
    start: int,
    known: Version,
    advance: Callable[[int], None],
) -> Generator[RemoteTar, None, None]:
    """A `RemoteTar` that lets go of its connection at the end."""
    tar = RemoteTar(session, url, start, known, advance)
    try:
        yield tar
    finally:
        tar.close()
