"""What a training leaves to read: metrics.csv and TensorBoard events."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from mrbridge.io.safety import write_text
from mrbridge.training.validation import Syntheses

Row = dict[str, float]


class Record:
    """Keeps one row of numbers an epoch.

    Args:
        run: the run's folder.
        rows: the rows of earlier sessions; what they do not hold is dropped from the files, since a
            resumed training makes it again.
    """

    def __init__(self, run: Path, rows: list[Row] | None = None) -> None:
        self.rows: list[Row] = list(rows or [])
        self._csv = run / "metrics.csv"
        purge = int(self.rows[-1]["epoch"]) + 1 if self.rows else None
        # The name of the computer would be in that of the file.
        with mock.patch("socket.gethostname", return_value="host"):
            self._board = SummaryWriter(str(run / "tensorboard"), purge_step=purge)

    def add(self, row: Row) -> None:
        """Append an epoch's row to both records."""
        self.rows.append(row)
        epoch = int(row["epoch"])
        for name, value in row.items():
            if name != "epoch" and np.isfinite(value):
                self._board.add_scalar(name, value, epoch)
        self._write_csv()

    def _write_csv(self) -> None:
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _short(value) for name, value in row.items()} for row in self.rows)
        write_text(self._csv, text.getvalue())

    def show(self, made: Syntheses, sheet: Any, epoch: int) -> None:
        """Add the sample sheet and the histograms of intensities to TensorBoard."""
        self._board.add_image("samples", np.asarray(sheet), epoch, dataformats="HW")
        for name, stack in (
            ("real/source", made.source),
            ("real/target", made.target),
            ("synthetic/target", made.to_target),
            ("synthetic/source", made.to_source),
        ):
            if np.isfinite(stack).any():
                self._board.add_histogram(f"intensity/{name}", stack[np.isfinite(stack)], epoch)
        self._board.flush()

    def close(self) -> None:
        """Flush what is not written yet."""
        self._board.close()


def _short(value: float) -> str:
    return f"{value:.7g}"
