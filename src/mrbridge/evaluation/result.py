"""What an evaluation found, and how it is written as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mrbridge import __version__
from mrbridge.evaluation.cases import Direction
from mrbridge.evaluation.settings import EvaluateSettings
from mrbridge.evaluation.summary import Scored, Verdict, finite

Mode = Literal["pairs", "unpaired", "files"]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        out: the folder with `scores.csv`, `scores.json`, `report.html` and `figures`.
        mode: `pairs` (a model on pairs), `unpaired` (a model without pairs), `files` (syntheses).
        directions: that were scored.
        cases: the cases with their scores, by direction.
        summary: direction, method (`model`, `floor`, `copy`), kind (`fit`, `plain`), measure
            (`psnr` in dB, `ssim`, `mae`), then `mean`, `std` and `n` over subjects. An infinite
            mean (the PSNR of equal images) is None, as in JSON.
        cycles: direction, `cycle` or `noisy`, kind, measure, likewise.
        wasserstein: direction, method: sliced Wasserstein distance from the true scans.
        verdicts: a judgement in words for each direction.
        figures: of all cases together, by direction and kind (`joint`, `by_case`).
        failures: (case, reason) of what could not be scored.
        left_out: (file, reason) of what was not meant to be scored.
        remarks: what was taken on trust.
        settings: how it was scored.
        masks: `given`, or the kind that the settings name.
        model_sha256: of the model's weights; None without a model.
        date: when, ISO 8601, UTC.
    """

    out: Path
    mode: Mode
    directions: tuple[Direction, ...]
    cases: tuple[Scored, ...]
    summary: dict[str, dict[str, Any]]
    cycles: dict[str, dict[str, Any]]
    wasserstein: dict[str, dict[str, float]]
    verdicts: tuple[Verdict, ...]
    figures: dict[str, dict[str, Path]]
    failures: tuple[tuple[str, str], ...]
    left_out: tuple[tuple[str, str], ...]
    remarks: tuple[str, ...]
    settings: EvaluateSettings
    masks: str
    model_sha256: str | None
    date: str

    @property
    def report(self) -> Path:
        """The page to open."""
        return self.out / "report.html"

    def as_json(self) -> dict[str, Any]:
        """The content of `scores.json`. Infinite scores (of equal images) are null."""
        return {
            "note": "scores of synthetic images; for research, not for diagnosis",
            "mrbridge": __version__,
            "date": self.date,
            "model_sha256": self.model_sha256,
            "mode": self.mode,
            "settings": self.settings.model_dump(mode="json"),
            "masks": self.masks,
            "verdicts": [vars(verdict) for verdict in self.verdicts],
            "summary": self.summary,
            "cycles": self.cycles,
            "sliced_wasserstein": finite(self.wasserstein),
            "cases": [_case_as_json(one) for one in self.cases],
            "failures": [{"name": name, "reason": reason} for name, reason in self.failures],
            "left_out": [{"name": name, "reason": reason} for name, reason in self.left_out],
            "remarks": list(self.remarks),
        }


def _case_as_json(one: Scored) -> dict[str, Any]:
    directions = {
        key: {
            "voxels": found.voxels,
            "scores": finite(found.scores),
            "cycle": finite(found.cycle),
            "slices": found.slices,
            "by_slice": finite(found.by_slice),
        }
        for key, found in one.found.items()
    }
    return {
        "case": one.case.name,
        "subject": one.case.subject,
        "floor_fitted_on": one.floor_on,
        "registration": None if one.placement is None else one.placement.as_json(),
        "directions": directions,
    }
