"""A bundle from elsewhere names no paths, cannot take all memory, and runs no code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mrbridge.bundle import load_bundle

GOLDEN = Path(__file__).parents[1] / "data" / "golden-bundle"
Run = Callable[..., tuple[int, str, str]]


def edited(folder: Path, changes: dict[str, Any]) -> Path:
    """A copy of the golden bundle; changes by keys such as `a>b`, None removes."""
    shutil.copytree(GOLDEN, folder)
    manifest = json.loads((folder / "bundle.json").read_text())
    for key, value in changes.items():
        *above, last = key.split(">")
        place = manifest
        for part in above:
            place = place[part]
        if value is None:
            del place[last]
        else:
            place[last] = value
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return folder


RANGE = {"low": 0.0, "high": 900.0}
ESCAPE = "../../../../elsewhere/x"

EDITS: dict[str, dict[str, Any]] = {
    "target up": {"target": ESCAPE, f"typical>{ESCAPE}": RANGE},
    "source absolute": {"source": "/tmp/elsewhere", "typical>~": RANGE},
    "target with a slash": {"target": "T2w/x", "typical>T2w~x": RANGE},
    "target with a line end": {"target": "T2w\n"},
    "target of letters that look alike": {"target": "\u03a42w"},
    "target empty": {"target": ""},
    "target dot": {"target": "."},
    "target long": {"target": "T" * 300},
    "target is the source": {"target": "T1w"},
    "target a number": {"target": 2},
    "target with NUL": {"target": "T2w\0"},
    "weights with NUL": {"weights": "a\0.safetensors"},
    "weights of long name": {"weights": "a" * 300 + ".safetensors"},
    "weights up": {"weights": "../weights.safetensors"},
    "checksum": {"weights_sha256": "5ab5"},
    "mask of another field": {"standard>brain_mask": "{nope}"},
    "mask of a position": {"standard>brain_mask": "{0}"},
    "mask of a huge width": {"standard>brain_mask": "{stem:>3000000000}"},
    "mask with an attribute": {"standard>brain_mask": "{stem.__class__}"},
    "mask with an index": {"standard>brain_mask": "{stem[0]}"},
    "mask nested": {"standard>brain_mask": "{stem:{entities}}"},
    "mask absolute": {"standard>brain_mask": "/etc/{stem}"},
    "mask on a drive": {"standard>brain_mask": "C:\\{stem}"},
    "mask with NUL": {"standard>brain_mask": "{stem}\0"},
    "no range of a contrast": {"typical>T2w": None},
    "no ranges": {"typical": {}},
    "range reversed": {"typical>T2w": {"low": 900.0, "high": 0.0}},
    "range empty": {"typical>T2w": {"low": 5.0, "high": 5.0}},
    "range of rounding": {"typical>T2w": {"low": 0.0, "high": 1e-40}},
    "range huge": {"typical>T2w": {"low": 0.0, "high": 1e300}},
    "range NaN": {"typical>T2w": {"low": float("nan"), "high": 1.0}},
    "knee outside": {"typical>T2w": RANGE | {"knee": 1000.0}},
    "levels without landmarks": {"typical>T2w": RANGE | {"levels": [-1.0, 1.0]}},
    "landmarks that fall": {"typical>T2w": RANGE | {"landmarks": [2.0, 1.0], "levels": [-1, 1]}},
    "spacing tiny": {"standard>spacing_mm": 0.0005},
    "spacing huge": {"standard>spacing_mm": 1e9},
    "spacing negative": {"standard>spacing_mm": -1},
    "surroundings": {"least_size": 8192},
    "surroundings negative": {"least_size": -1},
    "image size": {"networks>image_size": 1 << 20},
    "levels": {"networks>generator>levels": 40},
    "features": {"networks>generator>features": 10**9},
    "planes": {"planes": "../x"},
    "preset": {"preset": "x" * 1000},
    "huge integer": {"least_size": 10**4000},
    "unknown key": {"run": "touch sprung"},
    "large": {"trained>x": "y" * (2 << 20)},
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_bundle_is_refused_in_one_line(edit: str, run: Run, tmp_path: Path) -> None:
    bundle = edited(tmp_path / "a" / "bundle", EDITS[edit])
    for verb in (
        ["info", bundle],
        ["translate", "-i", tmp_path, "-o", tmp_path / "out", "-m", bundle],
        ["export", "-m", bundle, "-o", tmp_path / "out"],
    ):
        code, _, err = run(*verb)
        assert code == 2
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert len(err) < 2000
        assert "bundle.json: " in err
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_is_valid_stays_valid(tmp_path: Path) -> None:
    load_bundle(GOLDEN)
    load_bundle("shipped")
    mask = {"standard>brain": "mask", "standard>brain_mask": "../masks/{stem}_{entities}.nii"}
    load_bundle(edited(tmp_path / "mask", mask))
    flair = {"target": "FLAIR", "typical>FLAIR": RANGE}
    assert load_bundle(edited(tmp_path / "flair", flair)).target == "FLAIR"
