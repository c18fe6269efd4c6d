"""The compiled library is used only if it fits the processor and the source."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

import pytest
import torch
from tests.kernels.conftest import forget

from mrbridge.kernels import library

BF16 = torch.bfloat16


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processor: None) -> Path:
    """The library in another folder."""
    for file in Path(library.__file__).parent.glob("kernels*"):
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    forget()
    return tmp_path


def test_kernels_exist_if_there_is_a_compiler() -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64" or not shutil.which("g++"):
        pytest.skip("nothing is compiled on this system")
    assert library.supports(torch.float32), "install again: kernels.cpp has changed"
    assert library.supports(BF16)
    assert not library.supports(torch.float64)


def test_a_library_of_another_source_is_not_used(copied: Path) -> None:
    assert library.supports(BF16)
    forget()
    with (copied / "kernels.cpp").open("a") as source:
        source.write("// changed\n")
    assert not library.supports(BF16)


def test_a_library_that_cannot_be_loaded_is_not_used(copied: Path) -> None:
    for file in copied.glob("*.so"):
        file.write_bytes(b"not a library")
    assert not library.supports(BF16)
