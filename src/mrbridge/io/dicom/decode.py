"""Decoding compressed pixels, in a process of its own.

The decoders of JPEG, JPEG-LS and JPEG 2000 are C and C++ code that ends the whole process on some
damaged files. A process of their own ends alone, and neither its memory nor its time is ours. Run
as a module, this is that process: it reads requests from standard input and answers on standard
output.
"""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels import pixel_array

from mrbridge.io.dicom.files import calm, parse

_REQUEST = struct.Struct("<QQ")  # frame, bytes of the file (0: the one before)
_ANSWER = struct.Struct("<Q")  # bytes of the array; 0: it cannot be decoded
_MOST_BYTES = 4 << 30  # of memory
_MOST_SECONDS = 60.0


class DecodingError(Exception):
    """The pixels cannot be decoded."""


class Decoder:
    """Decodes frames of one file after another; a context that ends the process."""

    def __init__(self) -> None:
        # Not multiprocessing, which would import a user's script once more.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mrbridge.io.dicom.decode"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def decode(self, file: bytes, frame: int) -> NDArray[Any]:
        """Decode a frame.

        Args:
            file: a whole DICOM file; empty for the one before.
            frame: from 0.

        Raises:
            DecodingError: it is damaged, or takes too much memory or time.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        limit = threading.Timer(_MOST_SECONDS, self._process.kill)
        limit.start()
        try:
            self._process.stdin.write(_REQUEST.pack(frame, len(file)) + file)
            self._process.stdin.flush()
            (size,) = _ANSWER.unpack(_exactly(self._process.stdout, _ANSWER.size))
            if size:
                return np.load(io.BytesIO(_exactly(self._process.stdout, size)))
        except (OSError, EOFError):
            pass  # the process has ended
        finally:
            limit.cancel()
        raise DecodingError


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until the requests end."""
    file = b""
    while True:
        try:
            frame, size = _REQUEST.unpack(_exactly(requests, _REQUEST.size))
        except EOFError:
            return
        file = _exactly(requests, size) if size else file
        answer = io.BytesIO()
        try:
            with calm():
                np.save(answer, pixel_array(parse(io.BytesIO(file)), index=frame))
        except Exception:  # decoders meet damage with any exception at all
            answer = io.BytesIO()
        answers.write(_ANSWER.pack(len(answer.getvalue())) + answer.getvalue())
        answers.flush()


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _bound_memory() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    except (ImportError, ValueError, OSError):
        pass  # not every system can


if __name__ == "__main__":
    _bound_memory()
    serve(sys.stdin.buffer, sys.stdout.buffer)
