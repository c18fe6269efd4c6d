"""MONAI bundles: `export --to monai`, and the transforms and the inferer that such a bundle names.

Source: the MONAI Bundle Specification, https://docs.monai.io/en/stable/mb_specification.html. The
bundle holds the weights as a state dictionary and the whole translation as a configuration that
`python -m monai.bundle run` runs. Preprocessing, inferer and postprocessing are those of mrbridge,
so the result is that of `mrbridge translate`, and mrbridge must be installed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mrbridge import __version__, io
from mrbridge.bundle import Bundle, BundleManifest
from mrbridge.errors import OutputError, SettingsError, must_exist
from mrbridge.extensions import code_in, require
from mrbridge.inference.planes import Stack, planes_for
from mrbridge.inference.translator import Translator, restored
from mrbridge.io.atomic import atomic_path, write_json, write_text
from mrbridge.model_card import card, huggingface_card
from mrbridge.preprocessing.preprocess import Preprocessed, preprocess
from mrbridge.volume import Volume

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
_MODULE = "mrbridge.inference.monai"
_DIRECTIONS = ("to_target", "to_source")


@dataclass(frozen=True)
class Item:
    """A scan on its way through a MONAI bundle.

    Attributes:
        path: of the scan.
        volume: the scan.
        preprocessed: its slices, and the way back.
        synthetic: slices of the synthetic scan, range [-1, 1]; None before inference.
    """

    path: Path
    volume: Volume
    preprocessed: Preprocessed
    synthetic: Stack | None = None


class Preprocessing:
    """Reads a scan, and makes the slices that the network sees.

    Args:
        manifest: the path of mrbridge.json.
        to: the contrast to synthesise.
        allow_code: import code that it names.
    """

    def __init__(self, manifest: str, to: str, allow_code: bool = False) -> None:
        self.manifest = read(manifest, allow_code)
        self.source = self.manifest.source if to == self.manifest.target else self.manifest.target

    def __call__(self, path: str) -> Item:
        """Read and preprocess the scan at a path."""
        volume = io.read(path)
        levels = self.manifest.typical[self.source].levels
        return Item(Path(path), volume, preprocess(volume, self.manifest.standard, None, levels))


class PlanesInferer:
    """Applies the network to the slices of a scan, in one plane or in three, and takes the mean.

    Args:
        manifest: the path of mrbridge.json.
        to: the contrast to synthesise.
        device: `auto`, `cpu` or `cuda`.
    """

    def __init__(self, manifest: str, to: str, device: str = "auto") -> None:
        self.to, self.device, self.manifest = to, device, read(manifest, True)

    def __call__(self, item: Item, network: nn.Module) -> Item:
        """Translate the slices of an item."""
        translator = Translator(Bundle(self.manifest, {}), self.device)
        network = network.eval().requires_grad_(False).to(translator.device)
        crop = item.preprocessed.crop(item.volume)
        planes = planes_for(crop, translator.planes)
        synthetic = translator.translate_stack(network, item.preprocessed, self.to, planes)
        return Item(item.path, item.volume, item.preprocessed, synthetic)


class Postprocessing:
    """Writes the synthetic scan on the grid of its source, as NIfTI.

    Args:
        manifest: the path of mrbridge.json.
        to: the contrast to synthesise.
        output_dir: the folder of the results.
    """

    def __init__(self, manifest: str, to: str, output_dir: str) -> None:
        self.to, self.output_dir, self.manifest = to, Path(output_dir), read(manifest, True)

    def __call__(self, item: Item) -> str:
        """Write an item that was inferred, and return the path."""
        assert item.synthetic is not None
        range_out = self.manifest.typical[self.to]
        made, _ = restored(item.volume, item.preprocessed, item.synthetic, range_out, self.to)
        stem = item.path.name.split(".")[0]
        path = self.output_dir / f"{stem}_desc-synth_{self.to}.nii.gz"
        io.write(made, path)
        return str(path)


def read(path: str | Path, allow_code: bool) -> BundleManifest:
    """The manifest in an exported bundle.

    Raises:
        SettingsError: it is damaged, or names code, which is not allowed.
    """
    manifest = BundleManifest.build(json.loads(Path(path).read_text()), origin=path)
    require(code_in(manifest.networks.generator, manifest.standard), allow_code, Path(path))
    return manifest


def build_network(manifest: str, weights: str, allow_code: bool = False) -> nn.Module:
    """The generator of an exported bundle, with its weights, in float32 on the CPU.

    Args:
        manifest: the path of mrbridge.json.
        weights: the path of its state dictionary, which is read without unpickling code.
        allow_code: import code that the manifest names.
    """
    bundle = Bundle(read(manifest, allow_code), _prefixed(weights), allow_code=allow_code)
    return bundle.build("to_target")


def _prefixed(weights: str) -> dict[str, Any]:
    state = torch.load(weights, map_location="cpu", weights_only=True)
    return {f"to_target.{name}": value for name, value in state.items()}


def export_monai(bundle: Bundle, out: Path) -> list[Path]:
    """Write a MONAI bundle for each direction.

    Returns:
        Their folders, `<source>_to_<target>` and `<target>_to_<source>`.

    Raises:
        OutputError: they cannot be written.
        SettingsError: the model needs masks of the user's own, which the bundle does not ask for.
    """
    if bundle.manifest.standard.brain == "mask":
        raise SettingsError(
            "needs a brain mask for every scan, which a MONAI bundle does not ask for",
            path=bundle.path,
            remedy="Export to onnx, or train on scans without --brain mask.",
        )
    folders = []
    for name in _DIRECTIONS:
        to = bundle.target if name == "to_target" else bundle.source
        source = bundle.source if name == "to_target" else bundle.target
        folder = out / f"{source}_to_{to}"
        if folder.is_dir() and any(folder.iterdir()):
            must_exist(folder / "configs" / "mrbridge.json", OutputError, "Name a new folder.")
        for part in ("configs", "models", "docs"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        weights = {key: value.float().contiguous() for key, value in
                   bundle.generator_weights(name).items()}  # fmt: skip
        with atomic_path(folder / "models" / "model.pt") as temporary:
            torch.save(weights, temporary)
        write_json(folder / "configs" / "mrbridge.json", bundle.manifest.model_dump(mode="json"))
        write_json(folder / "configs" / "metadata.json", _metadata(bundle, source, to))
        write_json(folder / "configs" / "inference.json", _inference(to))
        write_text(folder / "docs" / "README.md", card(bundle.manifest, allow_code=True))
        write_text(folder / "README.md", huggingface_card(bundle.manifest, "monai"))
        folders.append(folder)
    return folders


def _inference(to: str) -> dict[str, Any]:
    """`inference.json`: what `python -m monai.bundle run` does."""
    manifest = {"manifest": "@manifest", "to": to}
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "manifest": "$@bundle_root + '/configs/mrbridge.json'",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "auto",
        "allow_code": False,
        "datalist": "$sorted(glob.glob(os.path.join(@dataset_dir, '*.nii*')))",
        "network_def": {
            "_target_": f"{_MODULE}.build_network",
            "manifest": "@manifest",
            "weights": "$@bundle_root + '/models/model.pt'",
            "allow_code": "@allow_code",
        },
        "preprocessing": {
            "_target_": f"{_MODULE}.Preprocessing",
            **manifest,
            "allow_code": "@allow_code",
        },
        "inferer": {"_target_": f"{_MODULE}.PlanesInferer", **manifest, "device": "@device"},
        "postprocessing": {
            "_target_": f"{_MODULE}.Postprocessing",
            **manifest,
            "output_dir": "@output_dir",
        },
        "initialize": ["$os.makedirs(@output_dir, exist_ok=True)"],
        "run": [
            "$[@postprocessing(@inferer(@preprocessing(one), @network_def)) for one in @datalist]"
        ],
    }


def _metadata(bundle: Bundle, source: str, to: str) -> dict[str, Any]:
    """`metadata.json`, after MONAI's schema."""
    multiple = bundle.manifest.networks.generator.multiple or 1
    tensor = {
        "type": "image",
        "format": "magnitude",
        "modality": "MR",
        "num_channels": 1,
        "spatial_shape": [f"{multiple}*n", f"{multiple}*n"],
        "dtype": "float32",
        "value_range": [-1, 1],
        "is_patch_data": False,
    }
    return {
        "schema": SCHEMA,
        "version": __version__,
        "changelog": {__version__: "exported by mrbridge"},
        "monai_version": _installed("monai", "1.6.1"),
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"mrbridge": __version__, "nibabel": version("nibabel")},
        "name": f"{source} to {to}",
        "task": f"Synthesis of {to} from {source} brain MR images",
        "description": f"Synthesises {to} from {source}. Its results are synthetic: for research, "
        "not for diagnosis.",
        "authors": "The mrbridge developers and who trained the model",
        "copyright": "See the licence of the model",
        "data_source": "See docs/README.md",
        "data_type": "nifti",
        "image_classes": f"{source}, one channel, normalised to [-1, 1]",
        "label_classes": f"{to}, one channel, normalised to [-1, 1]",
        "pred_classes": f"synthetic {to}, one channel, in [-1, 1]",
        "eval_metrics": dict(bundle.manifest.scores),
        "intended_use": "Research only, not for diagnosis",
        "references": ["https://arxiv.org/abs/1703.10593"],
        "network_data_format": {
            "inputs": {"image": tensor | {"channel_def": {"0": source}}},
            "outputs": {"pred": tensor | {"channel_def": {"0": f"synthetic {to}"}}},
        },
    }


def _installed(package: str, otherwise: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:
        return otherwise
