"""Which state of a training is the best, and when it ends early."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from mrbridge.errors import SettingsError
from mrbridge.training.monitor import HELD, EarlyStopping

NAN = float("nan")


def best_of(stopping: EarlyStopping, *validations: tuple[float, bool]) -> list[bool]:
    return [stopping.update(criterion, is_right) for criterion, is_right in validations]


class TestBest:
    def test_only_what_is_better(self) -> None:
        stopping = EarlyStopping()
        result = best_of(stopping, (1.0, True), (3.0, True), (3.0, True), (2.0, True), (4.0, True))
        assert result == [True, True, False, False, True]
        assert stopping.best == 4.0

    def test_what_looks_right_is_better_than_what_does_not(self) -> None:
        stopping = EarlyStopping()
        result = best_of(
            stopping, (9.0, False), (8.0, False), (1.0, True), (9.5, False), (2.0, True)
        )
        assert result == [True, False, True, False, True]
        assert stopping.best == 2.0

    def test_numbers_that_are_not_finite_are_better_than_nothing_only(self) -> None:
        stopping = EarlyStopping()
        assert best_of(stopping, (NAN, True), (NAN, True), (1.0, True), (NAN, True)) == [
            *(True, True, True, False)
        ]

    @pytest.mark.parametrize("criterion", [2.0, NAN])
    def test_the_initial_model_gives_way_only_to_a_better_state(self, criterion: float) -> None:
        stopping = EarlyStopping()
        stopping.start_from(criterion)
        assert stopping.best_is_initial
        assert best_of(stopping, (NAN, True), (-math.inf, True), (9.0, False)) == [False] * 3
        assert stopping.best_is_initial
        assert best_of(stopping, (3.0, True)) == [True]
        assert not stopping.best_is_initial


class TestEnd:
    def test_a_plateau(self, tiny: Callable[..., Any]) -> None:
        stopping, settings = EarlyStopping(), tiny(patience=2)
        ends = []
        for criterion in (1.0, 0.5, 2.0, 1.5, 2.0):
            stopping.update(criterion, True)
            ends.append(stopping.reason_to_stop(settings) is not None)
        assert ends == [False, False, False, False, True]
        assert stopping.reason_to_stop(tiny()) is None, "without patience it goes on"
        assert stopping.reason_to_stop(tiny(patience=3)) is None

    def test_a_verdict_has_to_hold(self, tiny: Callable[..., Any]) -> None:
        stopping, settings = EarlyStopping(), tiny(guard="stop")
        ends = []
        for is_right in (False, True, False, False):
            stopping.update(1.0, is_right)
            ends.append(stopping.reason_to_stop(settings) is not None)
        assert ends == [False, False, False, True]
        assert stopping.reason_to_stop(tiny(guard="warn")) is None

    def test_verdicts_that_do_not_count_yet(self, tiny: Callable[..., Any]) -> None:
        stopping = EarlyStopping()
        for _ in range(2 * HELD):
            stopping.update(1.0, False, counts=False)
        assert stopping.reason_to_stop(tiny(guard="stop")) is None


def test_a_failure_is_new_once() -> None:
    stopping = EarlyStopping()
    assert stopping.failures is None
    assert stopping.new_failures({"to_target": "a"}) == ["a"]
    assert stopping.new_failures({"to_target": "a", "to_source": "b"}) == ["b"]
    assert stopping.new_failures({"to_target": "c", "to_source": "b"}) == ["c"]
    assert stopping.new_failures({}) == []
    assert stopping.failures == {}
    assert stopping.new_failures({"to_target": "a"}) == ["a"]


def test_its_state_round_trips() -> None:
    stopping = EarlyStopping()
    stopping.start_from(1.0)
    stopping.update(2.0, False)
    stopping.new_failures({"to_target": "a"})
    again = EarlyStopping.from_state(asdict(stopping))
    assert again == stopping
    assert again != EarlyStopping()


def test_states_of_older_versions() -> None:
    old: dict[str, Any] = {
        "best": 2.0,
        "best_is_right": True,
        "keeps_beginning": True,
        "since_best": 1,
    }
    old |= {"held": 0, "restarts": 0, "standing": {"to_target": "a"}}
    stopping = EarlyStopping.from_state(old)
    assert (stopping.best, stopping.best_is_initial, stopping.since_best) == (2.0, True, 1)
    assert stopping.failures == {"to_target": "a"}
    with pytest.raises(SettingsError, match="guard=restart, which was removed"):
        EarlyStopping.from_state(old | {"restarts": 1})
