"""MONAI bundles, and Hugging Face's model cards."""

from __future__ import annotations

import errno
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
from mrbridge.errors import InputError, OutputError, SettingsError
from mrbridge.inference.monai import Preprocessing

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


@pytest.fixture(scope="module")
def exported_any(four_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    paths = export(four_bundle, tmp_path_factory.mktemp("monai"), to="monai")
    assert [path.name for path in paths] == ["T1w_to_T2w", "T2w_to_T1w", "any_contrast"]
    return paths[-1]


def run_bundle(
    folder: Path, scans: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *more: str
) -> None:
    """What `python -m monai.bundle run` does."""
    arguments = [
        *("run", "--config_file", str(folder / "configs/inference.json")),
        *("--meta_file", str(folder / "configs/metadata.json"), "--bundle_root", str(folder)),
        *("--dataset_dir", str(scans), "--output_dir", str(out), "--device", "cpu", *more),
    ]
    monkeypatch.setattr(sys, "argv", ["monai.bundle", *arguments])
    runpy.run_module("monai.bundle", run_name="__main__")


def assert_same(theirs: Path, ours: Path) -> None:
    one, other = nib.load(theirs), nib.load(ours)
    assert np.array_equal(one.affine, other.affine)
    assert np.array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))


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
    run_bundle(exported / f"{other}_to_{to}", scan.parent, tmp_path / "out", monkeypatch)
    assert_same(tmp_path / "out" / f"sub-01_{other}_desc-synth_{to}.nii.gz", ours)


@pytest.mark.parametrize(
    ("name", "to"),
    [
        ("sub-01_T1w", "FLAIR"),
        ("sub-01_T2w", "PDw"),
        ("sub-01_FLAIR", "T1w"),
        ("scan", "FLAIR"),  # of unknown contrast
    ],
)
def test_the_bundle_of_any_contrast_gives_the_result_of_translate(
    exported_any: Path,
    four_bundle: Bundle,
    make_scan: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    to: str,
) -> None:
    scan, ours = tmp_path / "in" / f"{name}.nii.gz", tmp_path / "ours.nii.gz"
    io.write(make_scan(1, "T1w"), scan)
    translate(scan, ours, model=four_bundle, to=to)
    more = () if to == "FLAIR" else ("--to", to)  # the default
    run_bundle(exported_any, scan.parent, tmp_path / "out", monkeypatch, *more)
    assert_same(tmp_path / "out" / f"{name}_desc-synth_{to}.nii.gz", ours)


@pytest.mark.parametrize(
    ("bundle", "to", "reason"),
    [
        ("any_contrast", "T1w", "is T1w already"),
        ("any_contrast", "T2w", "by another generator. Run the bundle T1w_to_T2w."),
        ("T1w_to_T2w", "FLAIR", "by another generator. Run the bundle any_contrast."),
    ],
)
def test_what_another_bundle_is_for(
    exported_any: Path, make_scan: Any, tmp_path: Path, bundle: str, to: str, reason: str
) -> None:
    scan, manifest = tmp_path / SCAN, str(exported_any / "configs/mrbridge.json")
    io.write(make_scan(1, "T1w"), scan)
    generator = "to_any" if bundle == "any_contrast" else "to_target"
    with pytest.raises(InputError) as caught:
        Preprocessing(manifest, to, generator)(str(scan))
    assert reason in str(caught.value)
    with pytest.raises(SettingsError, match="CT"):
        Preprocessing(manifest, "CT", generator)


def test_the_metadata_name_the_channels_of_any_contrast(exported_any: Path) -> None:
    import jsonschema

    values = json.loads((exported_any / "configs/metadata.json").read_text())
    jsonschema.validate(values, SCHEMA)
    formats = values["network_data_format"]
    image, made = formats["inputs"]["image"], formats["outputs"]["pred"]
    assert (image["num_channels"], made["num_channels"]) == (5, 4)
    assert list(image["channel_def"].values()) == [
        *("T1w", "T2w", "PDw", "FLAIR", "unknown contrast"),
    ]
    assert made["channel_def"]["3"] == "synthetic FLAIR"


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


def test_a_full_disk_is_one_line_and_the_same_command_continues(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path, content: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fails)
        with pytest.raises(OutputError, match=r"model\.pt: cannot be written \(No space left"):
            export(tiny_bundle, tmp_path / "out", to="monai")
    for folder in export(tiny_bundle, tmp_path / "out", to="monai"):
        assert (folder / "models" / "model.pt").is_file()


def test_the_card_for_hugging_face_has_front_matter(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (out,) = export(tiny_bundle, tmp_path / "hub", to="huggingface")
    _, front, text = (out / "README.md").read_text().split("---\n", 2)
    values = yaml.safe_load(front)
    assert values["library_name"] == "mrbridge"
    assert values["pipeline_tag"] == "image-to-image"
    assert text.startswith("\n# T1w ↔ T2w")
    assert load_bundle(out).hash == tiny_bundle.hash
