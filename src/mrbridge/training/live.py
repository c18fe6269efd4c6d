"""The live view of a training in a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.live import Live
from rich.table import Table

from mrbridge import progress


class LiveView:
    """A small table that is redrawn while a training runs; silent where there is no terminal."""

    def __init__(self) -> None:
        self._live: Live | None = None

    @property
    def is_on(self) -> bool:
        """Whether anybody sees it: gathering the numbers costs time, on a GPU a wait each."""
        return self._live is not None

    def start(self) -> None:
        """Begin to draw, on terminals."""
        if progress.wanted():
            self._live = Live(console=Console(stderr=True), refresh_per_second=4)
            self._live.start()

    def update(self, numbers: dict[str, str]) -> None:
        """Show these numbers by their names."""
        if self._live is None:
            return
        table = Table(show_header=False, title="mrbridge train", title_justify="left")
        for name, value in numbers.items():
            table.add_row(name, value)
        self._live.update(table)

    def stop(self) -> None:
        """Leave the last state on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def epoch_line(row: dict[str, float], wrong: Mapping[str, str]) -> str:
    """An epoch's numbers in one line.

    Args:
        row: as in `metrics.csv`.
        wrong: what the guard says of it, by direction.
    """
    hidden = ("epoch", "step", "seconds", "learning_rate", "criterion")
    shown = {k: v for k, v in row.items() if k not in hidden and not k.startswith("guard_")}
    numbers = "  ".join(f"{name} {value:.3g}" for name, value in shown.items())
    told = "".join(f"  ({words})" for words in wrong.values())
    return f"epoch {int(row['epoch'])}  {clock(row['seconds'])}  {numbers}{told}"
