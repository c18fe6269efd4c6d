"""The verb `export`: generators for other runtimes.

An ONNX file holds one generator in float32: `image` to `synthesis`, both (batch, channels, rows,
columns) in [-1, 1]. Batch, rows and columns are free; rows and columns are multiples of the number
in its metadata. There is one channel, except in the generator of any contrast.
"""

from __future__ import annotations

import json
import logging
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import torch

from mrbridge import __version__
from mrbridge.bundle import Bundle, load_bundle, save_bundle
from mrbridge.errors import Interrupted, OutputError, SettingsError, must_exist
from mrbridge.inference.monai import export_monai
from mrbridge.io.atomic import atomic_path, write_text
from mrbridge.io.ownership import must_be_ours
from mrbridge.io.remote import remove
from mrbridge.manifest import huggingface_card
from mrbridge.networks.build import Generator
from mrbridge.quiet import at_level, without_warnings
from mrbridge.settings import checked

FORMATS = ("onnx", "monai", "huggingface")
"""The formats that `export` writes."""

_PACKAGES = ("onnx", "onnxscript")
_OPSET = 18  # the one that PyTorch's exporter writes without converting
_LAYOUT = "rows to posterior, columns to the patient's left; axial slices"
_MOST = 8192  # rows, columns and batch that an exported network promises to take


@checked
def export(model: Bundle | str | Path, out: str | Path, *, to: str = "onnx") -> list[Path]:
    """Write the generators for other runtimes.

    Args:
        model: a bundle, the path of a run or bundle, or `shipped`.
        out: the folder. `onnx`: `<source>_to_<target>.onnx`, `<target>_to_<source>.onnx` and, of a
            model of more contrasts, `any_contrast.onnx`; `monai`: a MONAI bundle for each of
            these; `huggingface`: the bundle with a model card in the layout of Hugging
            Face (README.md).
        to: one of `FORMATS`.

    Returns:
        The files or folders. The metadata of ONNX files state the contrasts, the spacing and the
        intensity range that the network expects, and the SHA-256 of the model.

    Raises:
        SettingsError: the format is unknown, or the packages for it are not installed.
        BundleError: the model cannot be used.
        OutputError: `out` cannot be written.
    """
    if to not in FORMATS:
        raise SettingsError(
            f"cannot export to '{to}'", remedy=f"Choose one of {', '.join(FORMATS)}."
        )
    bundle = model if isinstance(model, Bundle) else load_bundle(model)
    if to == "monai":
        return export_monai(bundle, Path(out))
    if to == "huggingface":
        if Path(out).is_dir() and any(Path(out).iterdir()):
            must_exist(Path(out) / "bundle.json", OutputError, "Name a new folder.")
        save_bundle(bundle.manifest, bundle.weights, out)
        write_text(Path(out) / "README.md", huggingface_card(bundle.manifest))
        return [Path(out)]
    missing = [package for package in _PACKAGES if find_spec(package) is None]
    if missing:
        raise SettingsError(
            f"export to ONNX needs {' and '.join(missing)}",
            remedy="Run pip install 'mrbridge[onnx]'.",
        )
    paths = {key: Path(out) / f"{name}.onnx" for key, name in bundle.generators.items()}
    for path in paths.values():
        must_be_ours(path)
    try:
        with ExitStack() as unfinished:
            for generator, path in paths.items():
                temporary = unfinished.enter_context(atomic_path(path))
                temporary.write_bytes(_as_onnx(bundle, generator))
            # Killed before all are written, this leaves no set of two models: the first comes last.
            remove(paths["to_target"])
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted; no file was written",
            path=out,
            remedy="Run it again.",
            counts={"done": 0, "files": len(paths)},
        ) from None
    return list(paths.values())


def _as_onnx(bundle: Bundle, generator: str) -> bytes:
    more = bundle.manifest.any_contrast if generator == "to_any" else None
    settings = bundle.manifest.networks.generator if more is None else more.generator
    multiple = settings.multiple or 1
    channels = 1 if more is None else more.generator.inputs
    program = _traced(bundle.build(generator), multiple, channels)
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # paths of source files on this computer
    about = _metadata(bundle, generator) | {"multiple": str(multiple)}
    program.model.metadata_props.update(about)
    program.model.producer_name, program.model.producer_version = "mrbridge", __version__
    content: bytes = program.model_proto.SerializeToString()
    return content


def _traced(network: Generator, multiple: int, channels: int) -> torch.onnx.ONNXProgram:
    # Tracing treats sizes that are 1, or equal, in its example as constants.
    image = torch.zeros(2, channels, 2 * multiple, 3 * multiple)
    free = {0: torch.export.Dim("batch", min=1, max=_MOST)} | {
        axis: multiple * torch.export.Dim(name, min=2, max=_MOST // multiple)
        for axis, name in ((2, "rows"), (3, "columns"))
    }
    # Its log lists the operators of torchvision that are missing.
    with at_level(logging.ERROR, "torch.onnx"), without_warnings(), torch.no_grad():
        program = torch.onnx.export(
            network,
            (image,),
            input_names=["image"],
            output_names=["synthesis"],
            dynamic_shapes=(free,),
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program


def _metadata(bundle: Bundle, generator: str) -> dict[str, str]:
    """What a generator takes and makes."""
    standard, typical = bundle.manifest.standard, bundle.manifest.typical
    metadata = {
        "spacing_mm": "as scanned" if standard.spacing_mm is None else f"{standard.spacing_mm:g}",
        "margin_mm": f"{standard.margin_mm:g}",
        "alignment": standard.align,
        "denoised": str(standard.denoise).lower(),
        "bias_correction": standard.bias,
        "range": "[-1, 1]",
        "least_size": str(bundle.manifest.least_size),
        "intensities": standard.intensity.model_dump_json(),
        "preset": bundle.manifest.preset,
        "bundle_sha256": bundle.hash,
        "created_by": f"mrbridge {__version__}",
    }
    more = bundle.manifest.any_contrast
    if generator == "to_any" and more is not None:
        ranges = {one: typical[one].model_dump(mode="json") for one in more.contrasts}
        return metadata | {
            "description": f"Synthesises any of {', '.join(more.contrasts)} from one or several "
            "others: synthetic; for research, not for diagnosis.",
            "input_channels": json.dumps([*more.contrasts, "unknown"]),
            "output_channels": json.dumps(list(more.contrasts)),
            "layout": f"batch, channels (0 where a scan is absent), {_LAYOUT}",
            "typical": json.dumps(ranges),
        }
    source, target = bundle.source, bundle.target
    if generator == "to_source":
        source, target = target, source
    return metadata | {
        "description": f"Synthesises {target} from {source}: synthetic; for research, not for "
        "diagnosis.",
        "source": source,
        "target": target,
        "layout": f"batch, 1, {_LAYOUT}",
        "typical": typical[target].model_dump_json(),
    }
