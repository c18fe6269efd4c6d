"""Sample sheets of a training, and the animation made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mrbridge.io.safety import atomic_path
from mrbridge.training.validation import Syntheses

_TITLE, _GAP = 26, 4
_GIF_WIDTH, _GIF_FRAMES = 960, 60


def sample_sheet(made: Syntheses, rows: int, source: str, target: str, title: str) -> Image.Image:
    """Draw for some slices: image | synthesis | cycle | identity, in both directions.

    Args:
        made: the syntheses of the held-out slices.
        rows: how many slices, evenly spread; always the same ones for the same slices.
        source: contrast of the left half's images.
        target: contrast of the right half's images.
        title: what stands above, such as the epoch.
    """
    columns = [
        (source, made.source),
        (f"synthetic {target}", made.to_target),
        (f"cycle {source}", made.back_to_source),
        (f"identity {source}", made.same_source),
        (target, made.target),
        (f"synthetic {source}", made.to_source),
        (f"cycle {target}", made.back_to_target),
        (f"identity {target}", made.same_target),
    ]
    rows = min(rows, *(len(stack) for _, stack in columns))
    height, width = columns[0][1].shape[1:]
    sheet = Image.new(
        "L",
        (8 * (width + _GAP) + _GAP, 2 * _TITLE + rows * (height + _GAP)),
        color=40,
    )
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=min(15, max(8, width // 10)))
    pen.text((_GAP, 5), title, fill=255, font=font)
    for column, (label, stack) in enumerate(columns):
        left = _GAP + column * (width + _GAP)
        pen.text((left, _TITLE + 5), label, fill=255, font=font)
        for row in range(rows):
            image = stack[int((row + 0.5) * len(stack) / rows)]
            sheet.paste(_grey(image), (left, 2 * _TITLE + row * (height + _GAP)))
    return sheet


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a sample sheet as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")


def save_animation(samples: Path, path: Path) -> None:
    """Turn the sample sheets of a folder into `progress.gif`, evenly thinned to 60 frames."""
    sheets = sorted(samples.glob("epoch_*.png"))
    step = max(1, -(-len(sheets) // _GIF_FRAMES))
    chosen = sorted({*sheets[::step], *sheets[-1:]})
    frames = []
    for sheet in chosen:
        with Image.open(sheet) as image:
            height = round(image.height * _GIF_WIDTH / image.width)
            frames.append(image.resize((_GIF_WIDTH, height), Image.Resampling.LANCZOS))
    if not frames:
        return
    durations = [300] * (len(frames) - 1) + [2000]
    with atomic_path(path) as temporary:
        frames[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=frames[1:],
            duration=durations,
            loop=0,
        )


def _grey(image: NDArray[np.float32]) -> Image.Image:
    """[-1, 1] to 8 bits."""
    return Image.fromarray(np.clip((image + 1) * 127.5, 0, 255).round().astype(np.uint8))
