"""MONAI bundles, and Hugging Face's model cards."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest
import yaml

from mrbridge import export, io, load_bundle, translate
from mrbridge.errors import OutputError

if TYPE_CHECKING:
    from mrbridge.bundle import Bundle

pytest.importorskip("monai")

SCAN = "sub-01_T1w.nii.gz"

FORMAT = {
    "type": "object",
    "required": [
        *("type", "format", "num_channels", "spatial_shape", "dtype"),
        *("value_range", "is_patch_data", "channel_def"),
    ],
    "properties": {
        "num_channels": {"type": "integer"},
        "spatial_shape": {"type": "array", "items": {"type": ["integer", "string"]}},
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
VERSION = {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"}
SCHEMA = {
    "type": "object",
    "required": [
        *("version", "monai_version", "pytorch_version", "numpy_version"),
        *("required_packages_version", "task", "description", "authors", "copyright"),
        "network_data_format",
    ],
    "properties": {
        **dict.fromkeys(("monai_version", "pytorch_version", "numpy_version"), VERSION),
        "required_packages_version": {"type": "object", "additionalProperties": {"type": "string"}},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {
                name: {"type": "object", "additionalProperties": FORMAT}
                for name in ("inputs", "outputs")
            },
        },
    },
}
"""What the specification of MONAI bundles requires of metadata.json. MONAI's own schema is
downloaded by `monai.bundle verify_metadata`, which tests do not do."""


@pytest.fixture(scope="module")
def exported(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("monai")
    paths = export(tiny_bundle, out, to="monai")
    assert [path.name for path in paths] == ["T1w_to_T2w", "T2w_to_T1w"]
    return out


@pytest.mark.parametrize("to", ["T2w", "T1w"])
def test_monai_bundle_run_gives_the_result_of_translate(
    exported: Path,
    tiny_bundle: Bundle,
    make_scan: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    to: str,
) -> None:
    other = {"T2w": "T1w", "T1w": "T2w"}[to]
    scan = tmp_path / "in" / f"sub-01_{other}.nii.gz"
    io.write(make_scan(1, other), scan)
    ours = tmp_path / "ours.nii.gz"
    translate(scan, ours, model=tiny_bundle, to=to)
    folder = exported / f"{other}_to_{to}"
    arguments = [
        *("run", "--config_file", str(folder / "configs/inference.json")),
        *("--meta_file", str(folder / "configs/metadata.json"), "--bundle_root", str(folder)),
        *("--dataset_dir", str(scan.parent), "--output_dir", str(tmp_path / "out")),
        *("--device", "cpu"),
    ]
    monkeypatch.setattr(sys, "argv", ["monai.bundle", *arguments])
    runpy.run_module("monai.bundle", run_name="__main__")
    theirs = nib.load(tmp_path / "out" / f"sub-01_{other}_desc-synth_{to}.nii.gz")
    mine = nib.load(ours)
    assert np.array_equal(theirs.affine, mine.affine)
    assert np.array_equal(np.asarray(theirs.dataobj), np.asarray(mine.dataobj))


def test_the_metadata_follow_the_specification(exported: Path) -> None:
    import jsonschema

    values = json.loads((exported / "T1w_to_T2w/configs/metadata.json").read_text())
    jsonschema.validate(values, SCHEMA)
    assert values["network_data_format"]["inputs"]["image"]["channel_def"] == {"0": "T1w"}


def test_other_folders_are_left_alone(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "T1w_to_T2w").mkdir()
    (tmp_path / "T1w_to_T2w" / "mine.txt").touch()
    with pytest.raises(OutputError):
        export(tiny_bundle, tmp_path, to="monai")
    with pytest.raises(OutputError):
        export(tiny_bundle, tmp_path, to="huggingface")


def test_the_card_for_hugging_face_has_front_matter(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (out,) = export(tiny_bundle, tmp_path / "hub", to="huggingface")
    _, front, text = (out / "README.md").read_text().split("---\n", 2)
    values = yaml.safe_load(front)
    assert values["library_name"] == "mrbridge"
    assert values["pipeline_tag"] == "image-to-image"
    assert text.startswith("\n# T1w ↔ T2w")
    assert load_bundle(out).hash == tiny_bundle.hash
