"""The log of a training: metrics.csv, TensorBoard, sample sheets."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch.utils.tensorboard import SummaryWriter

from mrbridge.io.atomic import atomic_path, write_text, writing
from mrbridge.reports import csv_table
from mrbridge.training.validation import ValidationImages

Row = dict[str, float]

_TITLE, _GAP = 26, 4  # pixels
_GIF_WIDTH, _GIF_FRAMES = 960, 60


class TrainingLog:
    """Writes one row of numbers an epoch, and the sample sheets of validations.

    Args:
        rows: of earlier sessions; what the files hold beyond them is dropped, since the resumed
            training computes it again.
    """

    def __init__(self, run: Path, rows: list[Row] | None = None) -> None:
        self.rows: list[Row] = list(rows or [])
        self._run = run
        purge = int(self.rows[-1]["epoch"]) + 1 if self.rows else None
        self._events = run / "tensorboard"
        # The file's name would contain the name of the computer.
        with writing(self._events), mock.patch("socket.gethostname", return_value="host"):
            self._board = SummaryWriter(str(self._events), purge_step=purge)

    def add(self, row: Row) -> None:
        """Append an epoch's row to metrics.csv and TensorBoard."""
        self.rows.append(row)
        with writing(self._events):
            for name, value in row.items():
                if name != "epoch" and np.isfinite(value):
                    self._board.add_scalar(name, value, int(row["epoch"]))
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        rows = [[f"{r[name]:.7g}" if name in r else "" for name in names] for r in self.rows]
        write_text(self._run / "metrics.csv", csv_table(names, rows))

    def add_samples(self, synthetic: ValidationImages, sheet: Image.Image, epoch: int) -> None:
        """Save the sample sheet; add it and histograms of intensities to TensorBoard."""
        path = self._run / "samples" / f"epoch_{epoch:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            sheet.save(temporary, format="PNG")
        with writing(self._events):
            self._board.add_image("samples", np.asarray(sheet), epoch, dataformats="HW")
            for name, stack in (
                ("real/source", synthetic.source),
                ("real/target", synthetic.target),
                ("synthetic/target", synthetic.to_target),
                ("synthetic/source", synthetic.to_source),
            ):
                finite = stack[np.isfinite(stack)]
                if finite.size:
                    self._board.add_histogram(f"intensity/{name}", finite, epoch)
            self._board.flush()

    def save_animation(self) -> None:
        """Write progress.gif, of at most 60 sample sheets evenly spread over the training."""
        sheets = sorted((self._run / "samples").glob("epoch_*.png"))
        step = max(1, -(-len(sheets) // _GIF_FRAMES))
        frames = []
        for sheet in sorted({*sheets[::step], *sheets[-1:]}):
            with Image.open(sheet) as image:
                height = round(image.height * _GIF_WIDTH / image.width)
                frames.append(image.resize((_GIF_WIDTH, height), Image.Resampling.LANCZOS))
        if not frames:
            return
        with atomic_path(self._run / "progress.gif") as temporary:
            frames[0].save(
                temporary,
                format="GIF",
                save_all=True,
                append_images=frames[1:],
                duration=[300] * (len(frames) - 1) + [2000],  # milliseconds
                loop=0,
            )

    def close(self) -> None:
        """Flush TensorBoard."""
        with writing(self._events):
            self._board.close()


def sample_sheet(
    synthetic: ValidationImages, rows: int, source: str, target: str, title: str
) -> Image.Image:
    """Draw slices as rows: image, translation, cycle, identity, in both directions.

    Args:
        source, target: contrasts of the images in the left half and in the right one.
        title: the line at the top.
    """
    columns = [
        (source, synthetic.source),
        (f"synthetic {target}", synthetic.to_target),
        (f"cycle {source}", synthetic.back_to_source),
        (f"identity {source}", synthetic.same_source),
        (target, synthetic.target),
        (f"synthetic {source}", synthetic.to_source),
        (f"cycle {target}", synthetic.back_to_target),
        (f"identity {target}", synthetic.same_target),
    ]
    rows = min(rows, *(len(stack) for _, stack in columns))
    height, width = columns[0][1].shape[1:]
    size = (8 * (width + _GAP) + _GAP, 2 * _TITLE + rows * (height + _GAP))
    sheet = Image.new("L", size, color=40)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=min(15, max(8, width // 10)))
    pen.text((_GAP, 5), title, fill=255, font=font)
    for column, (label, stack) in enumerate(columns):
        left = _GAP + column * (width + _GAP)
        pen.text((left, _TITLE + 5), label, fill=255, font=font)
        grey = np.clip((stack + 1) * 127.5, 0, 255).round().astype(np.uint8)  # from [-1, 1]
        for row in range(rows):
            image = Image.fromarray(grey[int((row + 0.5) * len(stack) / rows)])
            sheet.paste(image, (left, 2 * _TITLE + row * (height + _GAP)))
    return sheet
