"""Scores of a model on the held-out slices of a store, next to the baselines of `evaluate`.

A store holds axial slices after preprocessing. So all arms are scored on equal pixels, in one
plane, whatever image size they are trained with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mrbridge import metrics
from mrbridge.dataset.pairs import shift_onto
from mrbridge.dataset.store import ScanRecord, Store
from mrbridge.errors import StoreError
from mrbridge.evaluation import summary
from mrbridge.evaluation.cases import Case, Direction
from mrbridge.evaluation.result import Scored
from mrbridge.evaluation.scoring import (
    Result,
    apply_baseline,
    evenly_spaced,
    fit_baselines,
    sample_voxels,
    voxels_per_case,
)
from mrbridge.evaluation.settings import EvaluateSettings
from mrbridge.inference.translator import Translator
from mrbridge.metrics import MonotoneMapping
from mrbridge.preprocessing.foreground import foreground_mask
from mrbridge.preprocessing.geometry import fit_size
from mrbridge.progress import track

_SETTINGS = EvaluateSettings()
_SEED = _SETTINGS.seed

Table = dict[str, dict[str, dict[str, Any]]]
"""Case, direction key, then `scores` and `cycle` by method; as in benchmark.json."""


class _Images(NamedTuple):
    """The slices of a scan, each (slices, size, size).

    Attributes:
        seen: by the networks, range [-1, 1].
        scan: the same in the intensities of the scan, which are scored as in `evaluate`.
    """

    seen: metrics.Array
    scan: metrics.Array


@dataclass(frozen=True)
class HeldOutScans:
    """The scans of the split that arms are scored on.

    Attributes:
        split: `test`, or `val` if the store has no test split.
        cases: pairs of scans of one subject and session; single scans if there are no pairs.
        places: of each case, the record and the positions of its slices, by contrast.
    """

    store: Store
    split: str
    cases: list[Case]
    paired: bool
    places: list[dict[str, tuple[ScanRecord, list[int]]]]

    @classmethod
    def of(cls, store: Store) -> HeldOutScans:
        """Choose the split; StoreError if neither test nor validation split has both contrasts."""
        contrasts = store.contrasts
        for split in ("test", "val"):
            if all(store.records(contrast=one, split=split) for one in contrasts):
                break
        else:
            raise StoreError(
                "has neither a test nor a validation split to score on",
                path=store.path,
                remedy="Prepare it again with a larger --set test_share.",
            )
        places = [
            {
                contrasts[0]: (source, [i for i, _ in positions]),
                contrasts[1]: (target, [j for _, j in positions]),
            }
            for source, target, positions in store.pairs(split)
        ]
        paired = bool(places)
        if not paired:
            records = [r for one in contrasts for r in store.records(contrast=one, split=split)]
            places = [{one.contrast: (one, one.positions(split))} for one in records]
        return cls(store, split, [_case(one) for one in places], paired, places)

    def images(self, number: int) -> dict[str, _Images]:
        """The slices of a case by contrast, in register."""
        place = self.places[number]
        size = max(side for record, _ in place.values() for side in record.shape[1:])
        first, _ = next(iter(place.values()))
        result = {}
        for contrast, (record, positions) in place.items():
            slices = self.store.slices(record)[positions].astype(np.float32)
            fitted = fit_size(slices, size, size, shift=shift_onto(first, record, size))
            result[contrast] = _Images(fitted, record.recipe.restore(fitted))
        return result

    def tasks(self, number: int) -> Iterator[tuple[Direction, _Images, _Images | None]]:
        """What to translate of a case: direction, source, and the target if there is one."""
        images = self.images(number)
        for direction in self.directions():
            if (source := images.get(str(direction.source))) is not None:
                yield direction, source, images.get(direction.target)

    def directions(self) -> tuple[Direction, Direction]:
        """Both directions of the store."""
        source, target = self.store.contrasts
        return Direction(source, target), Direction(target, source)

    @property
    def shown_slices(self) -> int:
        """Slices of each case for the sliced Wasserstein distance."""
        return max(1, _SETTINGS.wasserstein_slices // len(self.cases))


def _case(place: Mapping[str, tuple[ScanRecord, list[int]]]) -> Case:
    record, _ = next(iter(place.values()))
    subject = record.subject or record.id
    name = subject if record.session is None else f"{subject}_{record.session}"
    if record.is_2d or len(place) == 1:
        name = record.id
    return Case(name, subject, {contrast: Path(one.name) for contrast, (one, _) in place.items()})


def score_model(scans: HeldOutScans, translator: Translator) -> list[Scored]:
    """Score a model: method `model`, and its cycle."""
    typical = scans.store.manifest.typical
    scored = []
    for number in track(range(len(scans.cases)), "scoring", len(scans.cases)):
        results = {}
        for direction, source, real in scans.tasks(number):
            anatomy = foreground_mask(source.scan)
            made = translator.translate_slices(source.seen, direction.target, foreground=anatomy)
            back = translator.translate_slices(made, str(direction.source), foreground=anatomy)
            synthetic = typical[direction.target].restore(made)
            returned = typical[str(direction.source)].restore(back)
            shown, scores, inside = {"model": synthetic}, {}, anatomy
            if real is not None:
                inside = foreground_mask(real.scan)
                scores = {"model": metrics.scores(real.scan, synthetic, inside)}
                shown["real"] = real.scan
            else:
                shown["copy"] = source.scan  # of the way back, what is real
            results[direction.key] = Result(
                scores=scores,
                cycle={"cycle": metrics.scores(source.scan, returned, anatomy)},
                samples=evenly_spaced(shown, inside, scans.shown_slices),
            )
        scored.append(Scored(scans.cases[number], results))
    return scored


def score_baselines(scans: HeldOutScans) -> list[Scored]:
    """Score the monotone intensity mapping (`floor`) and the unchanged input (`copy`).

    The mapping is fitted to the other subjects of the split, if there are any.
    """
    fitted: Sequence[tuple[dict[str, MonotoneMapping], str | None]]
    fitted = [({}, None)] * len(scans.cases)
    if scans.paired:
        samples = [dict(_samples(scans, number)) for number in range(len(scans.cases))]
        fitted = fit_baselines(scans.cases, samples)
    scored = []
    for number, (mappings, fitted_on) in enumerate(fitted):
        results = {}
        for direction, source, real in scans.tasks(number):
            shown, scores = {"copy": source.scan}, {}
            inside = foreground_mask(source.scan if real is None else real.scan)
            if real is not None:
                shown["floor"] = apply_baseline(mappings[direction.key], source.scan, inside)
                scores = {name: metrics.scores(real.scan, i, inside) for name, i in shown.items()}
                shown["real"] = real.scan
            results[direction.key] = Result(
                scores=scores, samples=evenly_spaced(shown, inside, scans.shown_slices)
            )
        scored.append(Scored(scans.cases[number], results, fitted_on))
    return scored


def _samples(
    scans: HeldOutScans, number: int
) -> Iterator[tuple[str, tuple[metrics.Array, metrics.Array]]]:
    """Intensities of source and target of a pair at the same voxels, by direction."""
    count = voxels_per_case(len(scans.cases))
    for direction, source, real in scans.tasks(number):
        assert real is not None
        words = f"{scans.cases[number].name}/{direction.key}"
        inside = foreground_mask(real.scan)
        yield direction.key, sample_voxels(source.scan, real.scan, inside, count, _SEED, words)


def wasserstein(scans: HeldOutScans, scored: Sequence[Scored]) -> dict[str, dict[str, float]]:
    """Sliced Wasserstein distances from the real scans: direction, method."""
    return summary.wasserstein(scored, scans.directions(), _SEED)


def as_table(scored: Sequence[Scored]) -> Table:
    """The scores for benchmark.json."""
    return {
        one.case.name: {
            key: {"scores": result.scores, "cycle": result.cycle}
            for key, result in one.results.items()
        }
        for one in scored
    }


def from_tables(
    cases: Sequence[Case], tables: Sequence[Table], fitted_on: str | None
) -> list[Scored]:
    """Scores as an evaluation has them, from tables of different methods; the means over tables
    that have the same method.

    Cases that a table lacks are left out.
    """
    scored = []
    for case in cases:
        if not all(case.name in table for table in tables):
            continue
        results = {}
        for key in tables[0][case.name]:
            parts = [table[case.name][key] for table in tables]
            results[key] = Result(
                scores=_means([part["scores"] for part in parts]),
                cycle=_means([part["cycle"] for part in parts]),
            )
        scored.append(Scored(case, results, fitted_on))
    return scored


def _means(parts: Sequence[Mapping[str, metrics.Scores]]) -> dict[str, metrics.Scores]:
    """The mean scores of each method over the parts that have it."""
    result: dict[str, metrics.Scores] = {}
    for method in dict.fromkeys(method for part in parts for method in part):
        same = [part[method] for part in parts if method in part]
        result[method] = {
            kind: {m: float(np.mean([_number(one[kind][m]) for one in same])) for m in measures}
            for kind, measures in same[0].items()
        }
    return result


def _number(value: float | None) -> float:
    """A score from JSON, in which infinity (the PSNR of equal images) is null."""
    return math.inf if value is None else value
