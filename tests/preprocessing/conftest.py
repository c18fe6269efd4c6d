"""The small datasets of the tests of preparation, for those of preprocessing, too."""

from tests.dataset.conftest import bids, head

__all__ = ["bids", "head"]
