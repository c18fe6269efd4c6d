"""Progress shows on terminals only, and never changes what is iterated."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator

import pytest

from mrbridge import progress

LOGGER = logging.getLogger("mrbridge")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def on_terminal() -> Iterator[Terminal]:
    """Standard error is a terminal; within the test, as pytest replaces it between phases."""
    made = Terminal()
    with contextlib.redirect_stderr(made):
        yield made
    assert progress._bars == []


@pytest.fixture(autouse=True)
def _a_capable_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(LOGGER, "level", logging.INFO)


def test_items_pass_through() -> None:
    with on_terminal() as terminal:
        assert list(progress.track(range(5), "counting", 5)) == [0, 1, 2, 3, 4]
    assert "counting" in terminal.getvalue()
    assert "5/5" in terminal.getvalue()


def test_nothing_is_shown_when_quiet_or_without_a_terminal() -> None:
    with on_terminal() as terminal:
        LOGGER.setLevel(logging.ERROR)
        assert list(progress.track(range(3), "counting", 3)) == [0, 1, 2]
    assert terminal.getvalue() == ""
    with contextlib.redirect_stderr(io.StringIO()) as plain:
        assert list(progress.track(range(3), "counting", 3)) == [0, 1, 2]
    assert plain.getvalue() == ""


def test_one_inside_another_shares_the_display() -> None:
    seen = []
    with on_terminal() as terminal:
        for scan in progress.track(["a", "b"], "scans", 2):
            for number in progress.track(range(3), f"slices of {scan}", 3):
                assert len(progress._bars) == 1
                seen.append((scan, number))
    assert seen == [(scan, number) for scan in "ab" for number in range(3)]
    assert "scans" in terminal.getvalue()
    assert "2/2" in terminal.getvalue()


def test_an_error_ends_the_display() -> None:
    def fail() -> None:
        for _ in progress.track(range(3), "outer", 3):
            for number in progress.track(range(3), "inner", 3):
                if number == 1:
                    raise ValueError("broken")

    with on_terminal(), pytest.raises(ValueError, match="broken"):
        fail()


def test_bytes_that_come() -> None:
    for total, shown in ((3_000_000, "2.0/3.0 MB"), (None, "2.0/? MB")):
        with on_terminal() as terminal, progress.transfer("IXI", total) as advance:
            for _ in range(2):
                advance(1_500_000)
            advance(-1_000_000)  # some must come again
        assert "IXI" in terminal.getvalue()
        assert shown in terminal.getvalue()
    with (
        contextlib.redirect_stderr(io.StringIO()) as plain,
        progress.transfer("IXI", 5) as advance,
    ):
        advance(5)
    assert plain.getvalue() == ""


def test_nested_loops_are_reported_as_one_share() -> None:
    shares: list[float] = []
    with progress.reported(shares.append):
        for _ in progress.track(range(2), "outer"):
            assert list(progress.track("ab", "inner", 2)) == ["a", "b"]
    # The last inner item and its outer one are done at the same share.
    assert shares == [0.25, 0.5, 0.5, 0.75, 1.0, 1.0]
    assert progress._levels == []


def test_a_loop_that_is_left_is_not_counted_any_more() -> None:
    shares: list[float] = []
    with progress.reported(shares.append):
        with contextlib.suppress(KeyError):
            for _ in progress.track(range(4), "left"):
                raise KeyError
        list(progress.track([1], "next"))
    assert shares == [1.0]
