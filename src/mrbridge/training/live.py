"""The view of a training in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from mrbridge import progress
from mrbridge.training.words import Row, clock, loss_names, main_scores, score, sparkline


@dataclass(frozen=True)
class Status:
    """How far a training is.

    Attributes:
        contrasts: source and target.
        share: of the training that is done, in [0, 1].
        seconds: spent on training so far.
        place: epoch and step, in words.
        images_per_second: in this epoch.
        rows: one for each epoch that is complete.
        losses: of the last step.
        best: the best state so far, in words; empty before the first validation.
        failures: what the monitor says is wrong, by direction; None before the first validation.
    """

    contrasts: tuple[str, str]
    share: float
    seconds: float
    place: str
    images_per_second: float
    rows: Sequence[Row]
    losses: Mapping[str, float]
    best: str
    failures: Mapping[str, str] | None

    @property
    def monitor(self) -> str:
        """What the monitor says."""
        return "; ".join((self.failures or {}).values()) or "nothing wrong"


class LiveView:
    """A view that is redrawn while a training runs; nothing if there is no terminal."""

    def __init__(self) -> None:
        self._live: Live | None = None

    @property
    def is_on(self) -> bool:
        """Whether anyone sees it: gathering the numbers costs time, on a GPU a wait each."""
        return self._live is not None

    def start(self) -> None:
        """Start to draw, on terminals."""
        if progress.wanted():
            self._live = Live(console=Console(stderr=True), refresh_per_second=4)
            self._live.start()

    def update(self, status: Status) -> None:
        """Show a state."""
        if self._live is not None:
            self._live.update(drawn(status))

    def stop(self) -> None:
        """Leave the last state on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def drawn(status: Status) -> Group:
    """Progress bar, best state, scores and losses with their trends."""
    share, seconds = status.share, status.seconds
    left = f"about {clock(seconds * (1 - share) / share)} left" if share > 0 else ""
    head = Table.grid(padding=(0, 2))
    head.add_row(
        "Training", ProgressBar(total=1.0, completed=share, width=32), f"{share:.0%}", left
    )
    about = f"{status.place}; {status.images_per_second:.2f} images per second"
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name, side in (("", "left"), ("now", "right"), ("trend", "left"), ("best", "left")):
        table.add_column(name, justify="right" if side == "right" else "left", no_wrap=True)
    columns = list(dict.fromkeys(name for row in status.rows for name in row))
    for column, name in main_scores(columns, *status.contrasts).items():
        known = [(row[column], int(row["epoch"])) for row in status.rows if column in row]
        best, epoch = (min if column.startswith("swd") else max)(known)
        now, trend = score(column, known[-1][0]), sparkline([value for value, _ in known])
        table.add_row(name, now, trend, f"{score(column, best)} in epoch {epoch}")
    for column, name in loss_names(list(status.losses), *status.contrasts).items():
        trend = sparkline([row[column] for row in status.rows if column in row])
        table.add_row(f"loss: {name}", f"{status.losses[column]:.3f}", trend, "")
    lines = [f"[bold]Best so far:[/bold] {status.best}"] if status.best else []
    lines += [f"Monitor: {status.monitor}"] if status.failures is not None else []
    return Group(head, about, *lines, table)
