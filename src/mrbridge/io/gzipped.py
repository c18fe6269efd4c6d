"""Gzip by several threads."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce

from mrbridge.threads import usable_cores

_BLOCK = 4 << 20
"""Bytes that are compressed at once: always the same, so that equal data give equal files."""

_LEVEL = 1  # the fastest

_HEADER = bytes((0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 4, 255))
"""Deflate, no name and no time, fastest algorithm, unknown system (RFC 1952, section 2.3)."""


def gzipped(parts: Sequence[bytes]) -> Iterator[bytes]:
    """A gzip file of one member, in pieces; equal parts give equal files on any machine.

    Blocks are compressed apart and end on a byte boundary, as `Z_SYNC_FLUSH` of zlib leaves them,
    so that one deflate stream can be put together of them: the way of pigz (M. Adler). zlib leaves
    Python's lock meanwhile, and as many threads as there are processors work.
    """
    views = [memoryview(part) for part in parts]
    starts = [(view, start) for view in views for start in range(0, len(view), _BLOCK)]
    blocks = [view[start : start + _BLOCK] for view, start in starts] or [memoryview(b"")]
    is_last = [False] * (len(blocks) - 1) + [True]
    yield _HEADER
    with ThreadPoolExecutor(usable_cores()) as pool:
        yield from pool.map(_deflated, blocks, is_last)
    size = sum(map(len, views))
    yield struct.pack("<II", reduce(lambda crc, v: zlib.crc32(v, crc), views, 0), size % 2**32)


def _deflated(block: memoryview, is_last: bool) -> bytes:
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return stream.compress(block) + stream.flush(zlib.Z_FINISH if is_last else zlib.Z_SYNC_FLUSH)
