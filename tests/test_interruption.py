import gc

import pytest

from mrbridge.interruption import quick_imports


@pytest.mark.parametrize("was_on", [True, False])
def test_the_collector_is_as_before_afterwards(was_on: bool) -> None:
    (gc.enable if was_on else gc.disable)()
    try:
        with quick_imports():
            assert not gc.isenabled()
        assert gc.isenabled() == was_on
    finally:
        gc.unfreeze()
        gc.enable()


def test_the_collector_is_as_before_after_a_failure() -> None:
    with pytest.raises(ImportError), quick_imports():
        raise ImportError
    assert gc.isenabled()
    gc.unfreeze()


def test_what_was_imported_is_not_looked_through() -> None:
    try:
        with quick_imports():
            kept: list[list[int]] = [[] for _ in range(100)]
        assert not any(known is kept for known in gc.get_objects())
        assert gc.get_freeze_count() >= len(kept)
    finally:
        gc.unfreeze()
