"""The verb `export`, and the ONNX files that engines keep in the user's cache.

An ONNX file holds one generator in float32: `image` to `synthesis`, both (batch, 1, rows, columns)
in [-1, 1]. Batch, rows and columns are free, rows and columns multiples of what its metadata says.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from mrbridge import __version__
from mrbridge.bundle import Bundle, load_bundle
from mrbridge.errors import InputError, Interrupted, OutputError, SettingsError
from mrbridge.inference.engines import choose_engine
from mrbridge.io.ownership import must_be_ours
from mrbridge.io.safety import atomic_path, sha256_of
from mrbridge.io.transfer import remove
from mrbridge.networks import Generator, build_generator
from mrbridge.user_folders import user_folder

FORMATS = ("onnx",)
"""What `export` writes."""

_EXPORT = 1  # raise it when the same bundle begins to give another file
_OPSET = 18  # what PyTorch's exporter writes without converting
_KEPT = 16  # files in the cache
_MOST = 8192  # rows, columns and batch that an exported network promises to take


@dataclass(frozen=True)
class Exported:
    """A generator in ONNX; rows and columns must be multiples of `multiple`.

    Attributes:
        path: the file; None where it can be kept in no cache.
        multiple: of pixels.
        content: what the file would hold, where there is none.
    """

    path: Path | None
    multiple: int
    content: bytes = b""


def export(model: Bundle | str | Path, out: str | Path, *, to: str = "onnx") -> list[Path]:
    """Write both generators for other runtimes.

    Args:
        model: a bundle, the path of a run or bundle, or `shipped`.
        out: the folder that gets `<source>_to_<target>.onnx` and `<target>_to_<source>.onnx`.
        to: one of `FORMATS`.

    Returns:
        The two files. Their metadata tell the contrasts, the spacing and the range that the network
        expects, and which model it is.

    Raises:
        SettingsError: the format is unknown, or what it takes is not installed.
        BundleError: the model cannot be used.
        OutputError: `out` cannot be written.
    """
    if to not in FORMATS:
        raise SettingsError(
            f"cannot export to '{to}'", remedy=f"Choose one of {', '.join(FORMATS)}."
        )
    choose_engine("onnx", "cpu")  # asks for the packages
    bundle = model if isinstance(model, Bundle) else load_bundle(model)
    pairs = {
        "to_target": f"{bundle.source}_to_{bundle.target}.onnx",
        "to_source": f"{bundle.target}_to_{bundle.source}.onnx",
    }
    paths = {generator: Path(out) / name for generator, name in pairs.items()}
    for path in paths.values():
        must_be_ours(path)
    first, second = paths.values()
    try:
        with atomic_path(first) as one, atomic_path(second) as other:
            one.write_bytes(_as_onnx(bundle, "to_target"))
            other.write_bytes(_as_onnx(bundle, "to_source"))
            remove(first)  # killed before both are there, it leaves no pair of two models
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted; no file was written",
            path=out,
            remedy="Run it again.",
            counts={"done": 0, "files": len(pairs)},
        ) from None
    return [first, second]


def exported(bundle: Bundle, generator: str) -> Exported:
    """`to_target` or `to_source` in ONNX, exported if the user's cache does not hold it yet.

    Never taken from the bundle's folder: the checksum of the weights says nothing of other files
    there, and a bundle may come from anybody. The file's name tells what it was made from and the
    checksum of its content, which is compared at each use: a damaged file is made anew.

    Raises:
        BundleError: the weights do not fit the networks.
    """
    networks = bundle.manifest.networks
    with torch.device("meta"):
        multiple = int(build_generator(networks.generator, networks.image_size).multiple)
    origin = [_EXPORT, bundle.hash, networks.model_dump(mode="json")]
    key = hashlib.sha256(json.dumps(origin).encode()).hexdigest()[:16]
    folder = _cache()
    for path in sorted(folder.glob(f"{generator}-{key}-*.onnx")):
        if _is_whole(path):
            return Exported(path, multiple)
    content = _as_onnx(bundle, generator)
    path = folder / f"{generator}-{key}-{hashlib.sha256(content).hexdigest()[:16]}.onnx"
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    except OutputError:  # a full or read-only disk
        return Exported(None, multiple, content)
    _remove_oldest(folder, path)
    return Exported(path, multiple)


def _is_whole(path: Path) -> bool:
    try:
        return path.stem.endswith(f"-{sha256_of(path)[:16]}")
    except InputError:
        return False


def _remove_oldest(folder: Path, new: Path) -> None:
    """Keep the cache small."""
    with suppress(OSError):  # another process removes them, too
        others = [path for path in folder.glob("*.onnx") if path != new and path.is_file()]
        others.sort(key=lambda path: path.stat().st_mtime)
        for old in others[: max(0, len(others) + 1 - _KEPT)]:
            old.unlink()


def _cache() -> Path:
    """Where ONNX files lie in the user's cache."""
    return user_folder("XDG_CACHE_HOME", ".cache") / "onnx"


def _as_onnx(bundle: Bundle, generator: str) -> bytes:
    network = bundle.build(generator)
    multiple = int(network.multiple)
    program = _traced(network, multiple)
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # where the source code lies on the exporter's computer
    program.model.metadata_props.update(_metadata(bundle, generator, multiple))
    program.model.producer_name, program.model.producer_version = "mrbridge", __version__
    content: bytes = program.model_proto.SerializeToString()
    return content


def _traced(network: Generator, multiple: int) -> torch.onnx.ONNXProgram:
    # Tracing takes for constant what is one, or equal, in its example.
    image = torch.zeros(2, 1, 2 * multiple, 3 * multiple)
    free = {0: torch.export.Dim("batch", min=1, max=_MOST)} | {
        axis: multiple * torch.export.Dim(name, min=2, max=_MOST // multiple)
        for axis, name in ((2, "rows"), (3, "columns"))
    }
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it tells which operators of torchvision are not there
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
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
    finally:
        logger.setLevel(level)
    assert program is not None
    return program


def _metadata(bundle: Bundle, generator: str, multiple: int) -> dict[str, str]:
    source, target = bundle.source, bundle.target
    if generator == "to_source":
        source, target = target, source
    spacing = bundle.manifest.standard.spacing_mm
    return {
        "description": f"Synthesises {target} from {source}: synthetic; for research, not for "
        "diagnosis.",
        "source": source,
        "target": target,
        "spacing_mm": "as scanned" if spacing is None else f"{spacing:g}",
        "margin_mm": f"{bundle.manifest.standard.margin_mm:g}",
        "alignment": bundle.manifest.standard.align,
        "denoised": str(bundle.manifest.standard.denoise).lower(),
        "bias_correction": bundle.manifest.standard.bias,
        "range": "[-1, 1]",
        "multiple": str(multiple),
        "least_size": str(bundle.manifest.least_size),
        "layout": "batch, 1, rows to posterior, columns to the patient's left; axial slices",
        "intensities": bundle.manifest.standard.intensity.model_dump_json(),
        "typical": bundle.manifest.typical[target].model_dump_json(),
        "preset": bundle.manifest.preset,
        "bundle_sha256": bundle.hash,
        "created_by": f"mrbridge {__version__}",
    }
