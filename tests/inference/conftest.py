"""Networks that are exported meet symbols in the places of sizes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from jaxtyping import config


@pytest.fixture(autouse=True, scope="module")
def _sizes_may_be_symbols() -> Iterator[None]:
    """The checks of annotations take a symbol (`torch.SymInt`) for no `int`."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)
