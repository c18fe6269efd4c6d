"""Networks, losses, augmentations and preprocessing steps from users' own code.

An extension is a class or function that settings name as `module:Name`, or by an entry point of the
group `mrbridge`. Those of its parameters that have a default, or are keyword-only, are its
settings. Reading settings imports nothing: code that a bundle, a run or a store names is only
imported by callers that may (`require`).
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator

from mrbridge.errors import SettingsError
from mrbridge.settings import Settings
from mrbridge.text import did_you_mean, short_repr, shortened

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GROUP = "mrbridge"
"""The group of entry points."""

_NAME = re.compile(r"[A-Za-z_][\w.]{0,200}:[A-Za-z_][\w.]{0,200}")
_Settings = TypeVar("_Settings", bound=Settings)


class Extension(Settings):
    """The name of a class or function, and its settings: all further keys.

    Attributes:
        kind: `module:Name`; an entry point is replaced by what it stands for.
    """

    model_config = ConfigDict(extra="allow")
    built_in: ClassVar[tuple[str, ...]] = ()

    kind: str = Field(description="Your own code: module:Name, or the name of an entry point.")

    @field_validator("kind", mode="before")
    @classmethod
    def _find(cls, kind: Any) -> Any:
        if not isinstance(kind, str) or _NAME.fullmatch(kind):
            return kind
        installed = {one.name: one.value for one in entry_points(group=GROUP)}
        if kind in installed:
            return installed[kind]
        hint = did_you_mean(kind, [*cls.built_in, *installed])
        raise ValueError(f"there is no such kind{hint or '; name your own code as module:Name'}")

    @property
    def options(self) -> dict[str, Any]:
        """The settings of the class or function."""
        return dict(self.model_extra or {})

    def resolve(self) -> Any:
        """Import the class or function, from the working directory last; SettingsError if that
        fails."""
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
            importlib.invalidate_caches()
        try:
            return resolve_name(self.kind)
        except Exception as error:  # of any code
            top = re.split("[.:]", self.kind)[0]
            raise SettingsError(
                f"'{self.kind}' cannot be imported ({type(error).__name__}: "
                f"{shortened(str(error), 300)})",
                remedy=f"Install the package, or run mrbridge where {top}.py is.",
            ) from error

    def complete(self) -> Self:
        """The same with the defaults of all settings, so that later ones do not change a result.

        Raises:
            SettingsError: it cannot be imported, or a setting is unknown or impossible.
        """
        model = self._model_of(self.resolve())
        values = model.build(self.options, origin=self.kind).model_dump(mode="json")
        own = {name: getattr(self, name) for name in type(self).model_fields}
        return self.build(own | values)

    def make(self) -> Any:
        """An instance of the class, or the function with its settings."""
        found = self.resolve()
        return found(**self.options) if inspect.isclass(found) else partial(found, **self.options)

    def change(self, images: NDArray[np.float32], *arguments: Any) -> NDArray[np.float32]:
        """Call a function of images that returns images of the same shape; SettingsError if it
        fails, or returns anything else."""
        import numpy as np

        result = np.asarray(self.call(self.make(), images.copy(), *arguments), np.float32)
        if result.shape != images.shape:
            raise self.failed(f"it makes the shape {result.shape} of {images.shape}")
        if not np.isfinite(result).all():
            raise self.failed("it makes values that are not finite")
        return result

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call what `make` returned; SettingsError if it raises any exception."""
        try:
            return function(*arguments)
        except Exception as error:  # of any code
            raise self.failed(f"{type(error).__name__}: {shortened(str(error), 300)}") from error

    def failed(self, why: str) -> SettingsError:
        """The error that says why the class or function cannot be used."""
        return SettingsError(f"'{self.kind}' fails ({why})", remedy="Correct it; -v shows where.")

    def _model_of(self, found: Any) -> type[Settings]:
        """The settings of a class or function, from its signature."""
        if not callable(found):
            raise SettingsError(f"'{self.kind}' is not a class or function", remedy="Name one.")
        fields: dict[str, Any] = {
            one.name: (
                Any if one.annotation is one.empty else one.annotation,
                ... if one.default is one.empty else one.default,
            )
            for one in inspect.signature(found).parameters.values()
            if one.kind is one.KEYWORD_ONLY
            or (one.default is not one.empty and one.kind is one.POSITIONAL_OR_KEYWORD)
        }
        taken = fields.keys() & type(self).model_fields.keys()
        if taken:
            raise SettingsError(
                f"'{self.kind}' has a parameter called '{min(taken)}', which mrbridge uses itself",
                remedy="Rename it.",
            )
        return create_model(
            "ExtensionSettings", __base__=Settings, __module__=found.__module__, **fields
        )


def completed(settings: _Settings) -> _Settings:
    """Settings with every extension in them completed, checked together again.

    Raises:
        SettingsError: as `Extension.complete`.
    """
    result: _Settings = _each(settings, lambda extension: extension.complete())
    return result.changed({})


def code_in(*settings: Any) -> tuple[str, ...]:
    """The code that settings need, as `module:Name`."""
    found: list[str] = []

    def collect(extension: Extension) -> Extension:
        found.append(extension.kind)
        return extension

    for one in settings:
        _each(one, collect)
    return tuple(dict.fromkeys(found))


def require(code: tuple[str, ...], allowed: bool, path: Path | None) -> None:
    """Refuse to import code (`module:Name`) that a bundle, run or store at `path` names, unless the
    user allows it: SettingsError."""
    if code and not allowed:
        raise SettingsError(
            f"needs code that is not part of mrbridge ({', '.join(map(short_repr, code))})",
            path=path,
            remedy="Read that code; if you trust it, install it and use --allow-code.",
        )


def _each(value: Any, change: Callable[[Extension], Extension]) -> Any:
    if isinstance(value, Extension):
        return change(value)
    if isinstance(value, BaseModel):
        names = type(value).model_fields
        return value.model_copy(
            update={name: _each(getattr(value, name), change) for name in names}
        )
    if isinstance(value, Mapping):
        return {name: _each(one, change) for name, one in value.items()}
    return value
