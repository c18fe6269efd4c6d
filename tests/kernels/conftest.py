"""Processors with and without the compiled kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mrbridge.kernels import library


@pytest.fixture(params=["AVX512", "AVX2"])
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A processor with these instructions, for which the kernels were compiled."""
    extension = torch.backends.cpu.get_cpu_capability()
    if extension not in ("AVX512", request.param):
        pytest.skip(f"this processor has {extension} only")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: request.param)
    forget()
    if not library.supports(torch.float32):
        pytest.skip("no kernels were compiled")
    yield
    forget()


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine for which no kernels were compiled."""
    with monkeypatch.context() as patched:
        patched.setattr(library, "_library", lambda: None)
        yield


def forget() -> None:
    """Load the library again at its next use."""
    library._library.cache_clear()
    library._function.cache_clear()
