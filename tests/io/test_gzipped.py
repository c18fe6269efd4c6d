import gzip
import zlib

import numpy as np
import pytest

from mrbridge.io import nifti
from mrbridge.io.nifti import gzipped


def content(size: int) -> bytes:
    """Half noise, half repetition."""
    noise = np.random.default_rng(size).integers(0, 256, (size + 1) // 2, np.uint8).tobytes()
    return (noise + noise)[:size]


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 3000, 12345])
def test_the_content_comes_back_from_one_member(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nifti, "_BLOCK", 1000)
    data = content(size)
    file = b"".join(gzipped([data[: size // 3], b"", data[size // 3 :]]))
    assert gzip.decompress(file) == data
    stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
    assert stream.decompress(file) == data
    assert stream.eof
    assert not stream.unused_data


def test_equal_data_are_equal_files_on_any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nifti, "_BLOCK", 1000)
    files = set()
    for processors in (1, 2, 7):
        monkeypatch.setattr(nifti, "usable_cores", lambda count=processors: count)
        files.add(b"".join(gzipped([content(9500)])))
    assert len(files) == 1


def test_a_file_without_content_is_valid() -> None:
    assert gzip.decompress(b"".join(gzipped([]))) == b""


def test_it_compresses() -> None:
    assert len(b"".join(gzipped([bytes(1 << 20)]))) < 1 << 13
