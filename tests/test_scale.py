"""One thing to many scans, in any number of processes."""

from __future__ import annotations

import os
import time
import warnings

import pytest

from mrbridge.errors import InputError, MrbridgeError, MrbridgeWarning
from mrbridge.scale import map_scans


def work(number: int) -> int:
    if number == 3:
        raise InputError("is three", path="three.nii", remedy="Take four.")
    if number == 4:
        warnings.warn("four.nii: is even", MrbridgeWarning, stacklevel=1)
    time.sleep(0.05 * (number == 0))  # the first is the last to be done
    return number * number


def broken(number: int) -> int:
    return number // 0


def dies(number: int) -> int:
    os._exit(9)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_in_order_with_errors_and_warnings(workers: int) -> None:
    with pytest.warns(MrbridgeWarning, match=r"four\.nii: is even"):
        outcomes = list(map_scans(work, range(6), workers=workers, label="Working"))
    assert [item for item, _ in outcomes] == [0, 1, 2, 3, 4, 5]
    results = [result for _, result in outcomes]
    assert results[:3] + results[4:] == [0, 1, 4, 16, 25]
    assert isinstance(results[3], InputError)
    assert str(results[3]) == "three.nii: is three. Take four."


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bug_is_raised(workers: int) -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_scans(broken, [1, 2], workers=workers, label="Working"))


def test_a_killed_worker_is_told() -> None:
    with pytest.raises(MrbridgeError, match="killed"):
        list(map_scans(dies, [1, 2], workers=2, label="Working"))


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_to_do(workers: int) -> None:
    assert list(map_scans(work, [], workers=workers, label="Working")) == []
