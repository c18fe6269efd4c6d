"""Bundles, the models that runs write: weights, configuration, intensity ranges and a card.

A bundle is a folder of `bundle.json`, one `weights-….safetensors` and `card.md`. Nothing in it is
ever unpickled. The weights are named by their content, and `bundle.json` is replaced atomically, so
a reader gets the old bundle or the new one, never a mixture.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from safetensors import SafetensorError, safe_open

from mrbridge.errors import BundleError, InputError, SettingsError, SizeError
from mrbridge.extensions import require
from mrbridge.io.atomic import atomic_path, sha256_of, write_json, write_text
from mrbridge.manifest import VERSION, BundleManifest, Direction, card, in_words
from mrbridge.models import bundle_folder, locate
from mrbridge.networks.settings import GeneratorExtension, GeneratorSettings
from mrbridge.settings import checked
from mrbridge.text import parse_json, short_repr

if TYPE_CHECKING:
    # PyTorch, which takes a second to import; the networks need it, not what says what they do.
    from torch.nn import Module

    from mrbridge.networks.build import Generator
    from mrbridge.networks.unet import ScaleHead

_MOST_BYTES = 1 << 20  # of bundle.json
_Network = TypeVar("_Network", bound="Module")
_NUMPY_TYPES = {"F64", "F32", "F16", "I64", "I32", "I16", "I8", "U8", "BOOL"}  # of safetensors
_TRIES = 100  # each fails only if a training has just replaced the bundle

_PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin", ".joblib")


@dataclass(frozen=True, repr=False)
class Bundle:
    """A bundle in memory.

    Attributes:
        manifest: what `bundle.json` says.
        weights: tensors by name, `to_target.…`, `to_source.…`, `to_any.…` and, of scale heads,
            `to_target_scale.…` and so on; those of a loaded bundle are read when they are used.
        path: its folder; None if it is only in memory.
        allow_code: whether code that it names may be imported.
    """

    manifest: BundleManifest
    weights: Mapping[str, Any]
    path: Path | None = None
    allow_code: bool = False

    def __repr__(self) -> str:
        place = self.path or "in memory"
        return f"Bundle({' ↔ '.join(self.contrasts)}, {self.manifest.preset}, {place})"

    def _repr_html_(self) -> str:
        from mrbridge.reports import html_table

        manifest = self.manifest
        facts = {
            "contrasts": " ↔ ".join(self.contrasts),
            "preset": manifest.preset,
            "generators": manifest.networks.generator.kind,
            "planes": manifest.planes,
            "folder": self.path or "in memory",
            "SHA-256 of the weights": self.hash,
        }
        scores = {name: f"{value:.4g}" for name, value in manifest.scores.items()}
        return html_table((facts | scores).items(), ("model", ""))

    @property
    def source(self) -> str:
        """The contrast that `to_target` takes."""
        return self.manifest.source

    @property
    def target(self) -> str:
        """The contrast that `to_target` synthesises."""
        return self.manifest.target

    @property
    def hash(self) -> str:
        """SHA-256 of the weights: which model this is."""
        return self.manifest.weights_sha256

    @property
    def contrasts(self) -> tuple[str, ...]:
        """All contrasts that the model takes and makes; `source` and `target` come first."""
        return self.manifest.contrasts

    @property
    def generators(self) -> dict[str, str]:
        """The generators, with the names that they have where they are exported."""
        source, target = self.source, self.target
        names = {"to_target": f"{source}_to_{target}", "to_source": f"{target}_to_{source}"}
        return names | ({"to_any": "any_contrast"} if self.manifest.any_contrast else {})

    def generator_that_makes(self, contrast: str) -> Literal["to_target", "to_source"]:
        """Which of the first two generators makes this contrast, one of `source` and `target`."""
        return "to_target" if contrast == self.target else "to_source"

    def direction(self, given: Sequence[str | None], to: str) -> Direction:
        """How to make a contrast from scans.

        Args:
            given: contrasts of the scans, that of the scan to translate first; None, or one that
                the model does not take: unknown.
            to: contrast to synthesise.

        Raises:
            SettingsError: the model does not make it, or cannot take these scans together.
        """
        self.must_make(to)
        more = self.manifest.any_contrast
        pair = self.source, self.target
        other = self.source if to == self.target else self.target
        first = given[0] if given[0] in self.contrasts else None
        if len(given) == 1:
            # A scan of unknown contrast is taken for the other one of the pair, if there is one.
            if to in pair and (first in (None, to, other) or more is None):
                return Direction((other,), to, self.generator_that_makes(to))
            assert more is not None  # there are other contrasts than the pair
            first = None if first == to else first
            return Direction((first,), to, "to_any", more.generator, more.contrasts)
        if more is None:
            raise SettingsError(
                "this model takes one scan", path=self.path, remedy="Name no other scans."
            )
        if first is None or not set(given) <= set(more.contrasts) - {to}:
            raise SettingsError(
                f"the model cannot make {to} from "
                f"{' and '.join(one or 'an unknown contrast' for one in given)} together",
                path=self.path,
                remedy=f"Name scans of {in_words(c for c in more.contrasts if c != to)}.",
            )
        if len(set(given)) < len(given):
            raise SettingsError("two of the scans have the same contrast", remedy="Name one.")
        return Direction(tuple(given), to, "to_any", more.generator, more.contrasts)

    def averaged(self, direction: Direction) -> list[Direction]:
        """The directions whose results are averaged to make this one.

        From several scans these are two if the pair's own generator takes one of them: it is
        larger, and their mean is better than either on most real scans (decision 36).
        """
        given, to = direction.given, direction.to
        other = self.source if to == self.target else self.target
        if len(given) == 1 or to not in (self.source, self.target) or other not in given:
            return [direction]
        return [direction, self.direction((other,), to)]

    def target_for(self, contrast: str | None) -> str:
        """The contrast to synthesise from a scan of this contrast, or of an unknown one (None)."""
        return self.source if contrast == self.target else self.target

    def preferred(self, to: str) -> tuple[str, ...]:
        """Contrasts to make another one from, the best first."""
        first = self.source if to == self.target else self.target
        order = dict.fromkeys((first, self.source, *self.contrasts))
        return tuple(contrast for contrast in order if contrast != to)

    def must_make(self, contrast: str) -> None:
        """Refuse a contrast that no generator makes.

        Raises:
            SettingsError: it is not one of `contrasts`.
        """
        if contrast not in self.contrasts:
            made = (self.target, self.source, *self.contrasts[2:])
            raise SettingsError(
                f"this model synthesises {in_words(made)}, not {contrast}",
                path=self.path,
                remedy=f"Use {in_words([f'--to {one}' for one in made])}.",
            )

    def generator_weights(self, name: str) -> dict[str, Any]:
        """The tensors of a generator or scale head, without their prefix."""
        prefix = f"{name}."
        return {
            key.removeprefix(prefix): self.weights[key]
            for key in self.weights
            if key.startswith(prefix)
        }

    def build(self, name: str) -> Generator:
        """The generator `to_target`, `to_source` or `to_any`, for inference, in float32 on the CPU.

        Raises:
            BundleError: the weights do not fit the networks.
        """
        import torch

        from mrbridge.networks.build import build_generator

        networks, more = self.manifest.networks, self.manifest.any_contrast
        settings: GeneratorSettings = networks.generator
        if name == "to_any" and more is not None:
            settings = more.generator
        is_own = isinstance(settings, GeneratorExtension)
        # Their numbers come from the bundle; the user's own networks may have others, too.
        with nullcontext() if is_own else torch.device("meta"):
            network = build_generator(settings, networks.image_size)
        return self._load(network, name)

    def build_scale_head(self, name: str, generator: Generator) -> ScaleHead | None:
        """The scale head of a generator, for inference; None if the bundle has none.

        Raises:
            BundleError: the weights do not fit.
        """
        import torch

        from mrbridge.networks.unet import ScaleHead, UNet

        known = self.manifest.any_contrast if name == "to_any" else self.manifest.uncertainty
        if known is None or not known.width or not isinstance(generator, UNet):
            return None
        settings = generator.settings
        with torch.device("meta"):
            head = ScaleHead(
                generator.feature_channels, known.width, settings.inputs, settings.outputs
            )
        return self._load(head, f"{name}_scale")

    def _load(self, network: _Network, name: str) -> _Network:
        """Give a network its weights; BundleError if they do not fit."""
        weights = {  # some bundles hold them in half precision
            key: value.float() if value.is_floating_point() else value
            for key, value in self.generator_weights(name).items()
        }
        try:
            types = {key: value.dtype for key, value in network.state_dict().items()}
            network.load_state_dict(weights, assign=True)
            if any(value.dtype != types[key] for key, value in network.state_dict().items()):
                raise RuntimeError  # complex numbers
        except RuntimeError:
            raise _damaged("its weights do not fit its networks", self.path) from None
        return network.eval().requires_grad_(False)


class _Weights(Mapping[str, Any]):
    """The tensors of a file of safetensors, memory-mapped when they are used.

    If the file is replaced before that, they are copied from the one that was opened, whose
    checksum is known.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._inode = path, path.stat().st_ino
        self._file = safe_open(path, framework="np")  # which does not import PyTorch
        self._names = dict.fromkeys(self._file.keys())
        types = {self._file.get_slice(name).get_dtype() for name in self._names}
        if types - _NUMPY_TYPES:
            self._file = safe_open(path, framework="pt")

    @cached_property
    def _mapped(self) -> Any:
        with suppress(OSError, SafetensorError):
            file = safe_open(self._path, framework="pt")
            if self._path.stat().st_ino == self._inode:
                return file
        return self._file

    def __getitem__(self, name: str) -> Any:
        import torch

        if name not in self._names:
            raise KeyError(name)
        return torch.as_tensor(self._mapped.get_tensor(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def save_bundle(manifest: BundleManifest, weights: Mapping[str, Any], folder: str | Path) -> Bundle:
    """Write a bundle; an earlier one stays complete until the new one is.

    Scores that are not finite are left out, since JSON cannot hold them.
    """
    from safetensors.torch import save as save_safetensors

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = save_safetensors({name: value.contiguous().cpu() for name, value in weights.items()})
    digest = hashlib.sha256(content).hexdigest()
    name = f"weights-{digest[:16]}.safetensors"
    if not (folder / name).exists():
        with atomic_path(folder / name) as temporary:
            temporary.write_bytes(content)
    scores = {key: value for key, value in manifest.scores.items() if math.isfinite(value)}
    manifest = manifest.model_copy(
        update={"weights": name, "weights_sha256": digest, "scores": scores}
    )
    write_json(folder / "bundle.json", manifest.model_dump(mode="json"))
    write_text(folder / "card.md", card(manifest, allow_code=True))
    for old in folder.glob("weights-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)
    return Bundle(manifest, weights, folder)


def find_bundle(model: str | Path) -> Path:
    """The bundle's folder for the path of a run or a bundle, or for `shipped`: the bundle that
    comes with mrbridge, unless the working directory has a model of that name. BundleError if it is
    neither."""
    place = locate(model)
    if place.suffix.lower() in _PICKLES and place.is_file():
        raise BundleError(
            f"is a pickle ({place.suffix}), which can run any code, so it is never opened",
            path=place,
            remedy="Name a run, or a bundle: a folder of safetensors and JSON.",
        )
    if place.is_file():
        raise BundleError(
            "is a file; a bundle is a folder",
            path=place,
            remedy="Name the folder that holds bundle.json.",
        )
    folder = bundle_folder(place)
    if folder is not None:
        return folder
    raise BundleError(
        "is neither a run with a bundle nor a bundle",
        path=place,
        remedy="Train until the first validation, or name another folder.",
    )


def read_manifest(model: str | Path) -> BundleManifest:
    """Read `bundle.json` of a run or bundle, without its weights.

    Raises:
        BundleError: it is absent, damaged or of a version that this mrbridge does not know.
    """
    path = find_bundle(model) / "bundle.json"
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES} bytes")
        values = parse_json(text.decode())
    except (OSError, ValueError) as error:
        raise _damaged(f"cannot be read ({error})", path) from None
    if not isinstance(values, dict) or values.get("format") != "mrbridge-bundle":
        raise BundleError("is not an mrbridge bundle", path=path, remedy="Name another folder.")
    version = values.get("version")
    if type(version) is not int or version != VERSION:
        is_newer = type(version) is int and version > VERSION
        raise BundleError(
            f"has format version {short_repr(version)}, this mrbridge reads {VERSION}",
            path=path,
            remedy="Update mrbridge." if is_newer else "Use the version of mrbridge that wrote it.",
        )
    try:
        return BundleManifest.build(values, origin=path)
    except (SettingsError, SizeError) as error:
        raise _damaged(f"is damaged: {error.what}", path) from None


@checked
def load_bundle(model: str | Path, *, allow_code: bool = False) -> Bundle:
    """Load the bundle of a run, a bundle's folder or `shipped`, checking every byte of the weights.

    A generator takes no memory until it is used. If a training replaces the bundle meanwhile, the
    new one is loaded.

    Args:
        model: the path of a run or bundle, or `shipped`.
        allow_code: import code that the bundle names (`module:Name`) and that is installed here.

    Raises:
        BundleError: it is absent, damaged, changed, or of an unknown version.
        SettingsError: it names code, which is not allowed.
    """
    folder = find_bundle(model)
    for attempt in range(_TRIES):
        manifest = read_manifest(folder)
        require(manifest.code, allow_code, folder)
        try:
            return _load_weights(folder, manifest, allow_code)
        except (BundleError, InputError, OSError, RuntimeError) as error:
            with suppress(BundleError):
                # It may have been replaced, even by the same weights.
                if attempt < 2 or read_manifest(folder) != manifest:
                    time.sleep(0.002)
                    continue
            if isinstance(error, BundleError):
                raise
            message = (str(error).splitlines() or [type(error).__name__])[0]
            raise _damaged(f"its weights cannot be read ({message})", folder) from None
    raise BundleError(
        "is replaced again and again", path=folder, remedy="Copy it, and use the copy."
    )


def _load_weights(folder: Path, manifest: BundleManifest, allow_code: bool) -> Bundle:
    path = folder / Path(manifest.weights).name
    if path.suffix != ".safetensors" or not path.is_file():
        raise _damaged("its weights are missing", path)
    if sha256_of(path) != manifest.weights_sha256:
        raise _damaged("the weights are not those that bundle.json names (checksum differs)", path)
    try:
        return Bundle(manifest, _Weights(path), folder, allow_code)
    except SafetensorError as error:
        raise _damaged(f"is damaged ({error})", path) from None


def _damaged(what: str, path: Path | None) -> BundleError:
    return BundleError(what, path=path, remedy="Get a new copy.")
