"""What `quality.py` found: a table, correlations and a figure of its lines."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from scipy import stats


def summary(results: Path) -> None:
    """Print a table of the arms, and Spearman's correlation of unpaired measures with the paired
    scores, over all checkpoints."""
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    for line in lines:
        cut = ", three planes" if line.get("planes") == "all" else ""
        named = {line["arm"] + cut: line["scores"]} if "scores" in line else {}
        if "last state" in line:
            named[f"{line['arm']}, its last state"] = line["last state"]
        for mixed in line.get("by share", []):
            named[f"{line['arm']}, {mixed['share']} of its beginning"] = mixed["scores"]
        for arm, of_arm in named.items():
            print(f"| {line['set']} | {arm} | {line.get('steps', '')} | ", end="")
            print(" | ".join(_cell(scores) for scores in of_arm.values()), "|")
    for line in lines:
        points = line.get("checkpoints", [])
        if len(points) > 10 and len({point["psnr"] for point in points}) > 1:
            _correlations_within(line, points)
    for anchored in (False, True):  # each kind is judged by a criterion of its own
        points = [
            point
            for line in lines
            for point in line.get("checkpoints", [])
            if bool(line.get("beginning share")) == anchored
        ]
        table = {key: [point.get(key, np.nan) for point in points] for key in (*points, {})[0]}
        for paired in ("psnr", "ssim"):
            for name in table:
                if name not in ("psnr", "ssim", "minutes"):
                    rho = stats.spearmanr(table[name], table[paired], nan_policy="omit").statistic
                    kind = "with" if anchored else "without"
                    where = f"{len(points)} checkpoints {kind} a share of the beginning"
                    print(f"{name:24} {paired}  {rho:.2f}  ({where})")


def _correlations_within(line: dict[str, Any], points: list[dict[str, float]]) -> None:
    """Print the same of the checkpoints of one run."""
    texts = [f"{line['set']}, {line['arm']}, {len(points)} checkpoints of one run:"]
    for name in ("cycle_psnr", "minus_swd"):
        for paired in ("psnr", "ssim"):
            columns = ([point[key] for point in points] for key in (name, paired))
            texts.append(f"{name} {paired} {stats.spearmanr(*columns).statistic:.2f}")
    print(*texts, sep="  ")


def figure(results: Path, path: Path) -> None:
    """Draw how the paired scores grew with the minutes of training, for each arm, to an SVG file.

    Of each arm, the last run with the first seed that took more than half the time of the longest:
    on `ms` the scores of validation, slice by slice, where the tables score in three dimensions; on
    `seed-png` those of what a run shipped so far. No training saw them.
    """
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    sets = {name: curves for name in ("ms", "seed-png") if (curves := _curves(lines, name))}
    drawn = Figure(figsize=(9, 0.6 + 2.9 * len(sets)), layout="constrained")
    colours = {arm: f"C{n}" for n, arm in enumerate(dict.fromkeys(chain(*sets.values())))}
    for row, (name, curves) in zip(
        drawn.subplots(len(sets), 2, squeeze=False), sets.items(), strict=True
    ):
        for axis, score, unit in zip(row, (1, 2), ("PSNR in dB", "SSIM"), strict=True):
            for arm, points in curves.items():
                minutes, heights = zip(*((p[0], p[score]) for p in points), strict=True)
                axis.plot(minutes, heights, ".-", color=colours[arm], label=arm)
            axis.set(xlabel="minutes of training", ylabel=f"{unit}, mean of both directions")
            axis.set_title(name, fontsize="medium", loc="left")
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
    shown = {
        label: handle
        for axis in drawn.axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    drawn.legend(shown.values(), shown, loc="outside right center", frameon=False)
    with rc_context({"svg.hashsalt": "mrbridge"}):
        drawn.savefig(path, metadata={"Date": None})


def _curves(lines: list[dict[str, Any]], of_set: str) -> dict[str, list[tuple[float, ...]]]:
    """(minutes, PSNR, SSIM) of one run of each arm, as `figure` chooses it."""
    runs: dict[str, list[list[tuple[float, ...]]]] = {}
    for line in lines:
        if line["set"] != of_set or line.get("seed") != 0:
            continue
        points = [
            (point["minutes"], *np.mean(list(point["scores"].values()), axis=0).tolist())
            for point in line.get("on the way", [])
        ] or [
            (point["minutes"], point["psnr"], point["ssim"])
            for point in line.get("checkpoints", [])
            if "minutes" in point
        ]
        if points:
            runs.setdefault(line["arm"], []).append(points)
    longest = {arm: max(points[-1][0] for points in of_arm) for arm, of_arm in runs.items()}
    return {
        arm: [points for points in of_arm if points[-1][0] > longest[arm] / 2][-1]
        for arm, of_arm in runs.items()
    }


def _cell(scores: dict[str, list[float]]) -> str:
    """Scores of a direction: the mean, then each case."""
    return "; ".join(f"{psnr:.2f} / {ssim:.3f}" for psnr, ssim in scores.values())
