"""Which state is the best, and when a training goes back or ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from mrbridge.training.watch import HELD, MOST_RESTARTS, Watch

NAN = float("nan")


def best_of(watch: Watch, *validations: tuple[float, bool]) -> list[bool]:
    return [watch.note(criterion, is_right) for criterion, is_right in validations]


class TestBest:
    def test_only_what_is_better(self) -> None:
        watch = Watch()
        told = best_of(watch, (1.0, True), (3.0, True), (3.0, True), (2.0, True), (4.0, True))
        assert told == [True, True, False, False, True]
        assert watch.best == 4.0

    def test_what_looks_right_is_better_than_what_does_not(self) -> None:
        watch = Watch()
        told = best_of(watch, (9.0, False), (8.0, False), (1.0, True), (9.5, False), (2.0, True))
        assert told == [True, False, True, False, True]
        assert watch.best == 2.0

    def test_numbers_that_are_not_finite_are_better_than_nothing_only(self) -> None:
        watch = Watch()
        assert best_of(watch, (NAN, True), (NAN, True), (1.0, True), (NAN, True)) == [
            *(True, True, True, False)
        ]

    @pytest.mark.parametrize("criterion", [2.0, NAN])
    def test_the_beginning_gives_way_to_the_better_only(self, criterion: float) -> None:
        watch = Watch()
        watch.begin(criterion)
        assert watch.keeps_beginning
        assert best_of(watch, (NAN, True), (-math.inf, True), (9.0, False)) == [False] * 3
        assert watch.keeps_beginning
        assert best_of(watch, (3.0, True)) == [True]
        assert not watch.keeps_beginning


class TestEnd:
    def test_a_plateau(self, tiny: Callable[..., Any]) -> None:
        watch, settings = Watch(), tiny(patience=2)
        ends = []
        for criterion in (1.0, 0.5, 2.0, 1.5, 2.0):
            watch.note(criterion, True)
            ends.append(watch.why_end(settings) is not None)
        assert ends == [False, False, False, False, True]
        assert watch.why_end(tiny()) is None, "without patience it goes on"
        assert watch.why_end(tiny(patience=3)) is None

    def test_a_verdict_has_to_hold(self, tiny: Callable[..., Any]) -> None:
        watch, settings = Watch(), tiny(guard="stop")
        ends = []
        for is_right in (False, True, False, False):
            watch.note(1.0, is_right)
            ends.append(watch.why_end(settings) is not None)
        assert ends == [False, False, False, True]
        assert watch.why_end(tiny(guard="warn")) is None
        assert not watch.wants_restart(settings)

    def test_verdicts_that_do_not_count_yet(self, tiny: Callable[..., Any]) -> None:
        watch = Watch()
        for _ in range(2 * HELD):
            watch.note(1.0, False, counts=False)
        assert watch.why_end(tiny(guard="stop")) is None

    def test_restarts_come_first_and_are_numbered(self, tiny: Callable[..., Any]) -> None:
        watch, settings = Watch(), tiny(guard="restart", patience=HELD)
        watch.note(1.0, True)
        rates = []
        for _ in range(MOST_RESTARTS):
            for _ in range(HELD):
                assert not watch.wants_restart(settings)
                watch.note(9.0, False)
            assert watch.wants_restart(settings)
            assert watch.why_end(settings) is None, "a plateau that ends with a new chance"
            watch.restart()
            rates.append(watch.rate)
        assert rates == [0.5, 0.25, 0.125]
        for _ in range(HELD):
            watch.note(9.0, False)
        assert not watch.wants_restart(settings)
        assert "after 3 restarts" in str(watch.why_end(settings))


def test_what_is_wrong_is_news_once() -> None:
    watch = Watch()
    assert watch.standing is None
    assert watch.news({"to_target": "a"}) == ["a"]
    assert watch.news({"to_target": "a", "to_source": "b"}) == ["b"]
    assert watch.news({"to_target": "c", "to_source": "b"}) == ["c"]
    assert watch.news({}) == []
    assert watch.standing == {}
    assert watch.news({"to_target": "a"}) == ["a"]


def test_its_state_round_trips() -> None:
    watch = Watch()
    watch.begin(1.0)
    watch.note(2.0, False)
    watch.news({"to_target": "a"})
    again = Watch(**watch.state())
    assert again == watch
    assert again != Watch()
