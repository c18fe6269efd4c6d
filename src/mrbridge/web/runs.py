"""What the page shows of a training, from the files of its run: while it trains, and afterwards."""

from __future__ import annotations

import csv
import math
import time
from io import StringIO
from pathlib import Path
from typing import Any

from mrbridge.errors import SettingsError
from mrbridge.io.atomic import read_json
from mrbridge.settings import read_yaml
from mrbridge.training.words import WARNINGS, best_epoch, loss_names, score_names, verdicts

_SILENT_SECONDS = 120  # and three epochs: a training that wrote nothing for longer has stopped


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
