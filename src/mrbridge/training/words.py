"""The numbers of a training in words: names, trends, a line for each epoch, a view in the terminal,
and what the page shows of a run from its files. Importing it takes no PyTorch.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table

from mrbridge.errors import SettingsError
from mrbridge.io.atomic import read_json
from mrbridge.settings import read_yaml

Row = Mapping[str, float]
"""An epoch's numbers, as in metrics.csv."""

MEASURES = {
    "psnr": ("PSNR", " dB", 2),
    "ssim": ("SSIM", "", 3),
    "swd": ("Wasserstein distance", "", 3),
    "cycle_psnr": ("cycle PSNR", " dB", 2),
    "cycle_ssim": ("cycle SSIM", "", 3),
}
"""Name, unit and digits of every score of a validation."""

WARNINGS = {
    1: "inverts its input",
    2: "copies its input",
    3: "has collapsed: it returns almost the same image for every input",
}
"""What each verdict of the monitor says about a generator."""

_NOT_LOSSES = ("epoch", "step", "seconds", "learning_rate", "images_per_second", "criterion")
_BARS = "▁▂▃▄▅▆▇█"

_SILENT_SECONDS = 120  # and three epochs: a training that wrote nothing for longer has stopped


def score_names(columns: Sequence[str], source: str, target: str) -> dict[str, str]:
    """The columns that are scores, in words: `psnr_target` is `PSNR T1w→T2w`."""
    names = {}
    for measure, (words, _, _) in MEASURES.items():
        for column in columns:
            direction = column.removeprefix(f"{measure}_").removeprefix("to_")
            if direction == column or direction not in ("target", "source"):
                continue
            seen, made = (source, target) if direction == "target" else (target, source)
            is_cycle = measure.startswith("cycle")  # compares a contrast with itself
            names[column] = f"{words} {made}" if is_cycle else f"{words} {seen}→{made}"
    return names


def loss_names(columns: Sequence[str], source: str, target: str) -> dict[str, str]:
    """The columns that are losses, in words; `generators` is the weighted sum of the others."""
    words = {
        "generators": "generators, total",
        "back_translation": "back-translation",
        "source_critic": f"critic of {source}",
        "target_critic": f"critic of {target}",
    }
    scores = score_names(columns, source, target)
    return {
        column: words.get(column, column.replace("_", " "))
        for column in columns
        if column not in scores and column not in _NOT_LOSSES and not column.startswith("guard_")
    }


def score(column: str, value: float) -> str:
    """A score with its unit: `22.31 dB`."""
    for measure, (_, unit, digits) in MEASURES.items():
        if column.startswith(f"{measure}_"):
            return f"{value:.{digits}f}{unit}"
    return f"{value:.3g}"


def best_epoch(rows: Sequence[Row]) -> int | None:
    """The epoch of the best validation: of those without a verdict of the monitor, if any."""
    judged = [row for row in rows if "criterion" in row]
    right = [row for row in judged if not verdicts(row)]
    best = max(right or judged, key=lambda row: row["criterion"], default=None)
    return None if best is None else int(best["epoch"])


def verdicts(row: Row) -> dict[str, int]:
    """What the monitor says is wrong after an epoch: direction to the number of its verdict."""
    found = {d: int(row.get(f"guard_verdict_{d}", 0)) for d in ("to_target", "to_source")}
    return {direction: verdict for direction, verdict in found.items() if verdict}


def sparkline(values: Sequence[float]) -> str:
    """A trend as one line of bars, of the last 24 finite values."""
    shown = [value for value in values if math.isfinite(value)][-24:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    step = (high - low) / (len(_BARS) - 1) or 1.0
    return "".join(_BARS[round((value - low) / step)] for value in shown)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def main_scores(columns: Sequence[str], source: str, target: str) -> dict[str, str]:
    """The scores to read first: of pairs where there are some, else those that need none."""
    names = score_names(columns, source, target)
    paired = {c: name for c, name in names.items() if c.startswith(("psnr_", "ssim_"))}
    return paired or {c: name for c, name in names.items() if not c.startswith("cycle_ssim")}


def epoch_line(
    row: Row, contrasts: tuple[str, str], best: str = "", failures: Mapping[str, str] | None = None
) -> str:
    """An epoch in one line: scores, losses, the best state so far, the monitor's messages."""
    columns = list(row)
    parts = [
        f"{name} {score(column, row[column])}"
        for column, name in main_scores(columns, *contrasts).items()
    ]
    losses = loss_names(columns, *contrasts)
    parts += ["losses: " + ", ".join(f"{name} {row[c]:.3g}" for c, name in losses.items())]
    parts += [f"best so far: {best}"] if best else []
    notes = "".join(f"  ({message})" for message in (failures or {}).values())
    return f"epoch {int(row['epoch'])}  {clock(row['seconds'])}  {'; '.join(parts)}{notes}"


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
    """What the terminal shows: progress, best state, scores and losses with their trends.

    Args:
        share: of the training that is done, in [0, 1].
        about: epoch, step and speed, in words.
        rows: one for each epoch that is complete.
        losses: of the last step.
        failures: the monitor's messages by direction; None before the first validation.
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


def describe(run: Path) -> dict[str, Any]:
    """A run: its contrasts, numbers of every epoch, sample sheets, warnings, and the time left.

    A run that has only begun has no epochs. Rows are as in metrics.csv; `names` says what their
    columns are, for those that are scores or losses.

    Raises:
        SettingsError: its settings.yaml is missing or cannot be read.
    """
    if not (run / "settings.yaml").is_file():
        raise SettingsError(
            f"the training {run.name} has no settings.yaml any more",
            remedy="Check whether its folder was moved or deleted.",
        )
    settings = read_yaml(run / "settings.yaml")
    rows = _rows(run / "metrics.csv")
    manifest = _manifest(run)
    source, target = (str(manifest.get(name, name)) for name in ("source", "target"))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    age = _age(run / "metrics.csv")
    pace = rows[-1]["seconds"] / len(rows) if rows else 0.0
    total = _total_seconds(settings, rows)
    is_training = bool(rows) and age < max(_SILENT_SECONDS, 3 * pace)
    left = max(total - rows[-1]["seconds"] - age, 0.0) if is_training else 0.0
    return {
        "name": run.resolve().name,
        "preset": settings.get("preset"),
        "contrasts": [source, target],
        "rows": rows,
        "names": {
            "scores": score_names(columns, source, target),
            "losses": loss_names(columns, source, target),
        },
        "best_epoch": 0 if "kept" in manifest.get("trained", {}) else best_epoch(rows),
        "samples": sorted(path.name for path in (run / "samples").glob("epoch_*.png")),
        "warnings": _warnings(rows[-1], source, target) if rows else [],
        "is_training": left > 0,
        "seconds_left": left,
    }


def sample(run: Path, name: str) -> Path | None:
    """A sample sheet of a run by its name; None for any other name."""
    return next((path for path in (run / "samples").glob("epoch_*.png") if path.name == name), None)


def _rows(path: Path) -> list[dict[str, float]]:
    try:
        text = path.read_text("utf-8")
    except OSError:
        return []
    rows = []
    for row in csv.DictReader(StringIO(text)):
        values = {name: _number(value) for name, value in row.items() if name}
        rows.append({name: value for name, value in values.items() if value is not None})
    return [row for row in rows if {"epoch", "seconds"} <= row.keys()]


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _manifest(run: Path) -> dict[str, Any]:
    try:
        return dict(read_json(run / "bundle" / "bundle.json"))
    except Exception:  # before the first validation there is none
        return {}


def _warnings(row: dict[str, float], source: str, target: str) -> list[str]:
    """What the training monitor says about the last validation."""
    arrows = {"to_target": f"{source}→{target}", "to_source": f"{target}→{source}"}
    return [
        f"The generator {arrows[direction]} {WARNINGS[verdict]}."
        for direction, verdict in verdicts(row).items()
    ]


def _total_seconds(settings: dict[str, Any], rows: list[dict[str, float]]) -> float:
    """How long the whole training takes, by its settings and its pace so far."""
    if not rows:
        return 0.0
    minutes, epochs = settings.get("minutes"), settings.get("epochs")
    by_epochs = rows[-1]["seconds"] / rows[-1]["epoch"] * float(epochs or math.inf)
    return min(by_epochs, 60 * float(minutes) if minutes else math.inf)


def _age(path: Path) -> float:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return 0.0
