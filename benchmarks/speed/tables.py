"""The tables of docs/explanation/performance.md, made of the JSON lines in a folder.

    python -m benchmarks.speed.tables [benchmarks/speed/results]

Prints Markdown, a table a benchmark, of the last line of each kind in the folder's `*.jsonl`: what
the documentation says is what was measured.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Line = dict[str, Any]
Rows = list[list[str]]


def main(arguments: list[str] | None = None) -> None:
    """Print all tables for which there are lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("benchmarks/speed/results"))
    lines = read_lines(parser.parse_args(arguments).folder)
    for name, (head, rows_of) in TABLES.items():
        rows = [row for line in lines if line["benchmark"] == name for row in rows_of(line)]
        if rows:
            print(f"{name}\n\n{markdown(head, rows)}\n")


def read_lines(folder: Path) -> list[Line]:
    """The last line of every benchmark and choice of options, oldest first; quick ones left out."""
    last: dict[str, Line] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for text in path.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            if line.get("options", {"quick": True})["quick"]:
                continue  # or of a script that does not use the harness
            what = [line.get(name) for name in ("preset", "model", "scan")]
            machine = [line["machine"].get(name) for name in ("gpu", "instructions")]
            key = [line["benchmark"], what, line["options"], machine]
            last[json.dumps(key)] = line
    return sorted(last.values(), key=lambda line: str(line["date"]))


def markdown(head: Iterable[str], rows: Rows) -> str:
    """A table in Markdown."""
    cells = [list(head), *rows]
    cells.insert(1, ["---"] * len(cells[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _matrix_rate(line: Line) -> Rows:
    return [
        [device, *(f"{rates[key]['best']:.3g}" for key in rates)]
        for device, rates in line["rates"].items()
    ]


def _train_step(line: Line) -> Rows:
    changed = " ".join([*line["options"].get("set", []), _processor(line)])
    rows = []
    for name, arm in line["arms"].items():
        ratio = arm.get("times_mrbridge", 1.0)
        rows.append(
            [
                f"`{line['preset']}` {changed}".strip(),
                name.replace("_", " "),
                f"{arm['seconds']:.2f}",
                f"{arm['images_per_second']:.2f}",
                f"{arm['tflops']:.2f}",
                f"{100 * _share(arm):.0f} %",
                f"{arm['peak_memory_gib']:.1f}",
                f"{ratio:.2f}",
            ]
        )
    return rows


def _share(arm: Line) -> float:
    """Of the rate of matrix products; lines until 2026-11-28 only knew that of bfloat16."""
    share: float = arm.get("share_of_rate") or arm["share_of_bfloat16_rate"]
    return share


def _processor(line: Line) -> str:
    """The limits of the run: instructions, one thread."""
    machine = line["machine"]
    limits = ["AVX2"] * (machine.get("instructions") == "AVX2")
    limits += ["one thread"] * (machine["threads"] == 1)
    return f"({', '.join(limits)})" if limits else ""


def _engines(line: Line) -> Rows:
    given, times = line["options"], line["milliseconds"]
    model = given["model"] or f"`{given['preset']}`, untrained"
    engines = ("mrbridge", "pytorch", "onnxruntime")
    ratios = [f"{times[name] / times['mrbridge']:.2f}" for name in engines[1:]]
    model = f"{model} {_processor(line)}".strip()
    return [[model, *(f"{times[name]:.0f}" for name in engines), *ratios]]


def _train_step_busy(line: Line) -> Rows:
    rates = line["steps_per_second"]
    rows = []
    for name in ("spinning", "passive", "short spin"):
        undisturbed, busy = rates[f"{name} undisturbed"], rates[f"{name} busy"]
        cells = [f"{undisturbed:.2f}", f"{busy:.2f}", f"{busy / undisturbed:.2f}"]
        rows.append([f"`{line['preset']}`", name, *cells])
    return rows


def _layers(line: Line) -> Rows:
    rows = []
    for layer in line["layers"]:
        times = layer["milliseconds"]
        cells = [
            f"{times[f'{way} forward']:.1f} / {times[f'{way} both']:.1f}"
            for way in ("mrbridge", "channels_last", "channels_first")
        ]
        errors = [f"{layer['error'][way]:.4f}" for way in ("mrbridge", "channels_last")]
        rows.append([_layer(layer), f"{layer['floor']:.1f}", *cells, *errors])
    return rows


def _schemes(line: Line) -> Rows:
    rows = []
    for layer in line["layers"]:
        cells = [
            f"{layer[part][value]:.1f}"
            for part in ("products", "maps")
            for value in ("milliseconds", "floor")
        ]
        rows.append([_layer(layer), *cells])
    return rows


def _layer(line: Line) -> str:
    kind, channels, size, features = line["layer"]
    kind = {"halving": "strided", "doubling": "transposed"}.get(kind, kind)
    return f"{kind}, {channels} channels at {size}x{size}, {features} features"


def _translate_volume(line: Line) -> Rows:
    rows = []
    given = line["options"]
    model = f"`{given['preset']}`, untrained" if given["model"] is None else given["model"]
    model += f", {given['planes']}" if given.get("planes") else ""
    for name, engine in line["engines"].items():
        psnr = engine["psnr"]
        rows.append(
            [
                model,
                name,
                f"{1000 * engine['slices']['seconds']:.0f}",
                f"{engine['times_floor']:.2f}",
                f"{engine['volume']['seconds']:.1f}",
                f"{engine['command']['seconds']:.1f}",
                f"{engine['command']['peak_memory_gib']:.2f}",
                f"{engine['max_difference']:.4f}",
                "" if psnr is None else f"{psnr:.1f}",
            ]
        )
    return rows


_STAGES = (
    *("imports", "opening", "reading", "checking", "preprocessing", "network", "faint", "writing"),
    *("leaving", "others", "whole"),
)


def _stages(line: Line) -> Rows:
    seconds = line["seconds"]  # lines until 2026-11-28 have no `checking`
    return [[stage, f"{seconds[stage]:.2f}"] for stage in _STAGES if stage in seconds]


def _folder(line: Line) -> Rows:
    rows = []
    for name, figures in line["commands"].items():
        gain = line["speed_up"].get(name)
        cells = [f"{figures['seconds']:.1f}", f"{figures['peak_memory_gib']:.2f}"]
        rows.append([name, *cells, "" if gain is None else f"{gain:.2f}"])
    return [*rows, ["each later volume", f"{line['later_seconds']:.2f}", "", ""]]


def _rounding(line: Line) -> Rows:
    ways = [line[name] for name in ("throughout", "kept")]
    cells = [
        f"{way['max_difference']:.4f}" + (f" / {way['psnr']:.1f}" if way["psnr"] else "")
        for way in ways
    ]
    return [[line["model"], line["scan"], str(line["slices"]), str(line["faint"]), *cells]]


def _parity(line: Line) -> Rows:
    rows = []
    for name, score in line["scores"].items():
        means = [
            sum(score[precision]) / len(score[precision]) for precision in ("float32", "bfloat16")
        ]
        numbers = (*means, score["difference"], score["spread"])
        rows.append([f"`{line['options']['preset']}`", name, *(f"{n:.3f}" for n in numbers)])
    return rows


TABLES: dict[str, tuple[list[str], Callable[[Line], Rows]]] = {
    "matrix_rate": (["device", "float32 TFLOP/s", "bfloat16 TFLOP/s", "copy GB/s"], _matrix_rate),
    "train_step": (
        [
            *("preset", "arm", "seconds", "images per second", "TFLOP/s"),
            *("share of the matrix rate", "peak GiB", "relative time"),
        ],
        _train_step,
    ),
    "train_step_busy": (
        [
            "preset",
            "wait policy",
            "steps per second undisturbed",
            "next to a busy process",
            "share",
        ],
        _train_step_busy,
    ),
    "layers": (
        [
            *("layer", "floor ms", "mrbridge", "channels last", "channels first"),
            *("error of mrbridge", "of PyTorch"),
        ],
        _layers,
    ),
    "schemes": (
        ["layer", "products ms", "their floor", "transforms ms", "their floor"],
        _schemes,
    ),
    "translate_volume": (
        [
            *(
                "model",
                "engine",
                "ms a slice",
                "times the floor",
                "volume s",
                "command s",
                "peak GiB",
            ),
            *("largest difference", "PSNR dB"),
        ],
        _translate_volume,
    ),
    "engines": (
        ["model", "mrbridge", "PyTorch", "ONNX Runtime", "PyTorch / mrbridge", "ONNX / mrbridge"],
        _engines,
    ),
    "stages": (["stage", "s"], _stages),
    "folder": (["command", "s", "peak GiB", "times as fast as one thread"], _folder),
    "rounding": (
        ["model", "scan", "slices", "faint", "bfloat16 throughout", "as translated"],
        _rounding,
    ),
    "parity": (
        ["preset", "score", "float32", "bfloat16", "difference", "spread over seeds"],
        _parity,
    ),
}


if __name__ == "__main__":
    main()
