"""MONAI bundles: `export --to monai`, and the transforms and the inferer that such a bundle names.

Source: the MONAI Bundle Specification, https://docs.monai.io/en/stable/mb_specification.html. The
bundle holds the weights as a state dictionary and the whole translation as a configuration that
`python -m monai.bundle run` runs. Preprocessing, inferer and postprocessing are those of mrbridge,
so the result is that of `mrbridge translate`, and mrbridge must be installed.

In the configuration, `manifest` is the path of mrbridge.json, `generator` one of `to_target`,
`to_source` and `to_any`, and `allow_code` whether code that the manifest names may be imported.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mrbridge import __version__, io
from mrbridge.bundle import Bundle
from mrbridge.errors import InputError, OutputError, SettingsError, must_exist
from mrbridge.extensions import code_in, require
from mrbridge.inference.translator import Translator, restored
from mrbridge.io.atomic import atomic_path, write_json, write_text
from mrbridge.io.contrast import recognised
from mrbridge.manifest import BundleManifest, Direction, card, huggingface_card
from mrbridge.preprocessing.foreground import Stack
from mrbridge.preprocessing.preprocess import Preprocessed
from mrbridge.volume import Volume

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
_MODULE = "mrbridge.inference.monai"


@dataclass(frozen=True)
class Item:
    """A scan on its way through a MONAI bundle.

    Attributes:
        direction: the channels of the scan and of the result.
        synthetic: slices of the synthetic scan, range [-1, 1]; None before inference.
    """

    path: Path
    volume: Volume
    direction: Direction
    preprocessed: Preprocessed
    synthetic: Stack | None = None


class Preprocessing:
    """Reads a scan, and makes the slices that the network sees.

    Raises:
        SettingsError: the model does not make the contrast.
    """

    def __init__(self, manifest: str, to: str, generator: str, allow_code: bool = False) -> None:
        self.bundle, self.to, self.generator = Bundle(read(manifest, allow_code), {}), to, generator
        self.bundle.must_make(to)

    def __call__(self, path: str) -> Item:
        """Read and preprocess the scan at a path; InputError if it cannot be read, or another
        generator translates it."""
        with recognised(self.bundle.contrasts):
            volume = io.read(path)
        direction = self._direction(volume.contrast, path)
        known = replace(volume, contrast=direction.given[0])
        preprocessed = Translator(self.bundle, "cpu").preprocess(known, self.to)
        return Item(Path(path), volume, direction, preprocessed)

    def _direction(self, contrast: str | None, path: str) -> Direction:
        if self.generator != "to_any":  # it takes one contrast only, whatever the file is called
            contrast = None
        if contrast == self.to:
            raise InputError(f"is {contrast} already", path=path, remedy="Leave it out.")
        direction = self.bundle.direction((contrast,), self.to)
        if direction.generator != self.generator:
            raise InputError(
                f"is translated into {self.to} by another generator",
                path=path,
                remedy=f"Run the bundle {self.bundle.generators[direction.generator]}.",
            )
        return direction


class PlanesInferer:
    """Applies the network to the slices of a scan, in one plane or in three, and takes the mean."""

    def __init__(self, manifest: str, device: str = "auto") -> None:
        self.device, self.manifest = device, read(manifest, True)

    def __call__(self, item: Item, network: nn.Module) -> Item:
        """Translate the slices of an item."""
        translator = Translator(Bundle(self.manifest, {}), self.device)
        network = network.eval().requires_grad_(False).to(translator.device)
        planes = translator.planes_of(item.volume, item.preprocessed)
        slices = translator.slice_translator(item.direction, network)
        (made,) = slices.in_planes(
            [item.preprocessed.slices], item.preprocessed, planes, spread=False
        )
        return replace(item, synthetic=made)


class Postprocessing:
    """Writes the synthetic scan on the grid of its source, as NIfTI."""

    def __init__(self, manifest: str, output_dir: str) -> None:
        self.output_dir, self.manifest = Path(output_dir), read(manifest, True)

    def __call__(self, item: Item) -> str:
        """Write an item that was inferred, and return the path."""
        assert item.synthetic is not None
        to = item.direction.to
        range_out = self.manifest.typical[to]
        made, _ = restored(item.volume, item.preprocessed, item.synthetic, range_out, to)
        stem = item.path.name.split(".")[0]
        path = self.output_dir / f"{stem}_desc-synth_{to}.nii.gz"
        io.write(made, path)
        return str(path)


def read(path: str | Path, allow_code: bool) -> BundleManifest:
    """The manifest in an exported bundle; SettingsError if it is damaged, or names code, which is
    not allowed."""
    manifest = BundleManifest.build(json.loads(Path(path).read_text()), origin=path)
    require(code_in(manifest.networks.generator, manifest.standard), allow_code, Path(path))
    return manifest


def build_network(
    manifest: str, weights: str, generator: str, allow_code: bool = False
) -> nn.Module:
    """The generator of an exported bundle, in float32 on the CPU, with the weights at a path, which
    are read without unpickling code."""
    state = torch.load(weights, map_location="cpu", weights_only=True)
    prefixed = {f"{generator}.{name}": value for name, value in state.items()}
    return Bundle(read(manifest, allow_code), prefixed, allow_code=allow_code).build(generator)


def export_monai(bundle: Bundle, out: Path) -> list[Path]:
    """Write a MONAI bundle for each generator; their folders: `<source>_to_<target>`,
    `<target>_to_<source>` and, of a model of more contrasts, `any_contrast`. OutputError if they
    cannot be written; SettingsError if the model needs masks of the user's own, which the bundle
    does not ask for."""
    if bundle.manifest.standard.brain == "mask":
        raise SettingsError(
            "needs a brain mask for every scan, which a MONAI bundle does not ask for",
            path=bundle.path,
            remedy="Export to onnx, or train on scans without --brain mask.",
        )
    source, target, more = bundle.source, bundle.target, bundle.manifest.any_contrast
    defaults = {"to_target": target, "to_source": source}
    if more is not None:
        defaults["to_any"] = more.contrasts[-1]
    folders = []
    for generator, name in bundle.generators.items():
        folder = out / name
        if folder.is_dir() and any(folder.iterdir()):
            must_exist(folder / "configs" / "mrbridge.json", OutputError, "Name a new folder.")
        for part in ("configs", "models", "docs"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        state = bundle.generator_weights(generator)
        weights = {key: value.float().contiguous() for key, value in state.items()}
        # First what says that the folder is ours: the same command continues after a full disk.
        write_json(folder / "configs" / "mrbridge.json", bundle.manifest.model_dump(mode="json"))
        content = BytesIO()  # writing to a file, PyTorch reports a full disk as a RuntimeError
        torch.save(weights, content)
        with atomic_path(folder / "models" / "model.pt") as temporary:
            temporary.write_bytes(content.getbuffer())
        write_json(folder / "configs" / "metadata.json", _metadata(bundle, generator))
        write_json(
            folder / "configs" / "inference.json", _inference(defaults[generator], generator)
        )
        write_text(folder / "docs" / "README.md", card(bundle.manifest, allow_code=True))
        write_text(folder / "README.md", huggingface_card(bundle.manifest, "monai"))
        folders.append(folder)
    return folders


def _inference(to: str, generator: str) -> dict[str, Any]:
    """`inference.json`: what `python -m monai.bundle run` does.

    Args:
        to: the contrast to synthesise; for the generator of any contrast, unless `--to` names one.
    """
    manifest = {"manifest": "@manifest"}
    code = {"generator": generator, "allow_code": "@allow_code"}
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "manifest": "$@bundle_root + '/configs/mrbridge.json'",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "to": to,
        "device": "auto",
        "allow_code": False,
        "datalist": "$sorted(glob.glob(os.path.join(@dataset_dir, '*.nii*')))",
        "network_def": {
            "_target_": f"{_MODULE}.build_network",
            **manifest,
            "weights": "$@bundle_root + '/models/model.pt'",
            **code,
        },
        "preprocessing": {"_target_": f"{_MODULE}.Preprocessing", **manifest, "to": "@to", **code},
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


def _metadata(bundle: Bundle, generator: str) -> dict[str, Any]:
    """`metadata.json` of a generator, after MONAI's schema."""
    manifest, more = bundle.manifest, bundle.manifest.any_contrast
    if generator == "to_any" and more is not None:
        names = ", ".join(more.contrasts)
        multiple, inputs = more.generator.multiple, [*more.contrasts, "unknown contrast"]
        outputs = list(more.contrasts)
        what = {
            "name": bundle.generators[generator],
            "task": f"Synthesis of brain MR images of one contrast of {names} from another",
            "description": f"Synthesises any of {names} from another: the contrast that `to` "
            f"names, except {bundle.source} and {bundle.target} from each other.",
            "image_classes": "a channel for each contrast, normalised to [-1, 1], and one for a "
            "scan whose contrast is unknown; 0 in those that are absent",
            "label_classes": "a channel for each contrast, normalised to [-1, 1]",
            "pred_classes": "a synthetic image for each contrast, in [-1, 1]; that of `to` is "
            "written",
            "eval_metrics": {},
        }
    else:
        source, to = bundle.source, bundle.target
        if generator == "to_source":
            source, to = to, source
        multiple, inputs, outputs = manifest.networks.generator.multiple or 1, [source], [to]
        what = {
            "name": f"{source} to {to}",
            "task": f"Synthesis of {to} from {source} brain MR images",
            "description": f"Synthesises {to} from {source}.",
            "image_classes": f"{source}, one channel, normalised to [-1, 1]",
            "label_classes": f"{to}, one channel, normalised to [-1, 1]",
            "pred_classes": f"synthetic {to}, one channel, in [-1, 1]",
            "eval_metrics": dict(manifest.scores),
        }
    tensor = {
        "type": "image",
        "format": "magnitude",
        "modality": "MR",
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
        **what,
        "description": f"{what['description']} Its results are synthetic: for research, not for "
        "diagnosis.",
        "authors": "The mrbridge developers and who trained the model",
        "copyright": "See the licence of the model",
        "data_source": "See docs/README.md",
        "data_type": "nifti",
        "intended_use": "Research only, not for diagnosis",
        "references": ["https://arxiv.org/abs/1703.10593"],
        "network_data_format": {
            "inputs": {"image": tensor | _channels(inputs)},
            "outputs": {"pred": tensor | _channels([f"synthetic {one}" for one in outputs])},
        },
    }


def _channels(names: list[str]) -> dict[str, Any]:
    numbered = {str(number): name for number, name in enumerate(names)}
    return {"num_channels": len(names), "channel_def": numbered}


def _installed(package: str, otherwise: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:
        return otherwise
