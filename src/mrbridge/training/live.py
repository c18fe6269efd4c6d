"""The view of a training in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table

from mrbridge.training.words import Row, clock, loss_names, main_scores, score, sparkline


def view(
    contrasts: tuple[str, str],
    share: float,
    seconds: float,
    about: str,
    rows: Sequence[Row],
    losses: Mapping[str, float],
    best: str,
    failures: Mapping[str, str] | None,
) -> Group:
    """Progress bar, best state, scores and losses with their trends.

    Args:
        contrasts: source and target.
        share: of the training that is done, in [0, 1].
        seconds: spent on training so far.
        about: epoch, step and speed, in words.
        rows: one for each epoch that is complete.
        losses: of the last step.
        best: the best state so far, in words; empty before the first validation.
        failures: what the monitor says is wrong, by direction; None before the first validation.
    """
    left = f"about {clock(seconds * (1 - share) / share)} left" if share > 0 else ""
    head = Table.grid(padding=(0, 2))
    head.add_row(
        "Training", ProgressBar(total=1.0, completed=share, width=32), f"{share:.0%}", left
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("now", justify="right", no_wrap=True)
    table.add_column("trend", no_wrap=True)
    table.add_column("best", no_wrap=True)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for column, name in main_scores(columns, *contrasts).items():
        known = [(row[column], int(row["epoch"])) for row in rows if column in row]
        top, epoch = (min if column.startswith("swd") else max)(known)
        now, trend = score(column, known[-1][0]), sparkline([value for value, _ in known])
        table.add_row(name, now, trend, f"{score(column, top)} in epoch {epoch}")
    for column, name in loss_names(list(losses), *contrasts).items():
        trend = sparkline([row[column] for row in rows if column in row])
        table.add_row(f"loss: {name}", f"{losses[column]:.3f}", trend, "")
    lines = [f"[bold]Best so far:[/bold] {best}"] if best else []
    if failures is not None:
        lines.append(f"Monitor: {'; '.join(failures.values()) or 'nothing wrong'}")
    return Group(head, about, *lines, table)
