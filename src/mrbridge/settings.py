"""The base of every stage's settings: frozen, strict, and helpful about misspelt keys.

Each stage declares its settings next to its code; the command line and YAML files fill them in.
"""

from __future__ import annotations

import builtins
import inspect
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from functools import reduce, wraps
from numbers import Integral, Real
from pathlib import Path
from pkgutil import resolve_name
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    Self,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

from annotated_types import Ge
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo

import mrbridge
from mrbridge.errors import InputError, SettingsError
from mrbridge.text import short_repr, shortened

if TYPE_CHECKING:
    import yaml

Function = TypeVar("Function", bound=Callable[..., Any])
Positive = Annotated[int, Ge(1)]
"""A number of processes, trainings or the like."""

Planes = Literal["axial", "all"]
"""The planes in which volumes are sliced for the networks: one, or all three."""

_OTHER_VALUE = "Choose another value."
_NOT_NEAR = ", nor one like it"
_MOST_BYTES = 1 << 20  # of a file of settings
_MOST_VALUES = 10_000  # in one, aliases counted as often as they are used
_MOST_LEVELS = 20  # of a key
_MOST_PROBLEMS = 5  # in one message


@dataclass(frozen=True)
class Option:
    """How a field appears on the command line, if its name and type do not say it (`Annotated`).

    Attributes:
        names: of the option, as in `--as`; otherwise the name of the field, with dashes.
        metavar: what the help shows in place of a value; otherwise its type or choices.
        default: what happens if the option is left out, in words, where the default is None.
        place: whether the path may be a URL.
        argument: whether it is a positional argument.
        callback: called with the value before the command line is checked, as for `--version`.
    """

    names: tuple[str, ...] = ()
    metavar: str | None = None
    default: str | None = None
    place: bool = False
    argument: bool = False
    callback: Callable[[Any], None] | None = None


class Settings(BaseModel):
    """A frozen set of options that refuses keys it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, values: Any) -> Any:
        """Pydantic takes true, and `yes` of YAML, for 1."""
        for key, value in values.items() if isinstance(values, Mapping) else ():
            if isinstance(value, bool) and key in cls.model_fields:
                kinds = _kinds(cls.model_fields[key].annotation)
                if bool not in kinds and (int in kinds or float in kinds):
                    raise ValueError(f"'{key}' cannot be {value}: it is a number")
        return values

    @classmethod
    def defaults(cls) -> Self:
        """The settings of users who change none."""
        return cls()

    @classmethod
    def build(cls, values: Mapping[str, Any], *, origin: str | Path | None = None) -> Self:
        """Validate `values` (nested mappings), naming every problem in words.

        Raises:
            SettingsError: an unknown key (with the nearest known one) or an impossible value.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            details = error.errors()
            problems = [_in_words(cls, detail) for detail in details[:_MOST_PROBLEMS]]
            if len(details) > _MOST_PROBLEMS:
                problems.append(f"and {len(details) - _MOST_PROBLEMS} more problems")
            remedy = "" if any("did you mean" in words for words in problems) else _OTHER_VALUE
            if any(words.endswith(_NOT_NEAR) for words in problems):
                remedy = f"Known keys: {', '.join(fields_of(cls))}."
            raise SettingsError("; ".join(problems), path=origin, remedy=remedy) from None

    def changed(self, values: Mapping[str, Any], *, origin: str | Path | None = None) -> Self:
        """A copy in which the keys of `values` (nested mappings) replace the present ones."""
        return self.build(merged(self.model_dump(), values), origin=origin)


class VerbSettings(Settings):
    """The base of the arguments and options of a verb.

    Attributes:
        stage: the name (`module:Name`) of the settings that `--config` and `--set` change, if any.
            They are imported only for the verb that is run.
        setting_keys: those of the stage's settings that have an option of their own; None: all.
    """

    stage: ClassVar[str | None] = None
    setting_keys: ClassVar[tuple[str, ...] | None] = None

    @classmethod
    def stage_settings(cls) -> type[Settings] | None:
        """The settings class of the stage."""
        return None if cls.stage is None else resolve_name(cls.stage)


def checked(function: Function) -> Function:
    """Decorate a public function: check the types of its arguments before it runs.

    Raises:
        InputError: an argument that may be a path has another type than its annotation says.
        SettingsError: so has any other argument, or a number is below its limit (`Ge`).
    """
    parameters = inspect.signature(function).parameters
    names = _Names(inspect.unwrap(function).__globals__)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(parameters, args, strict=False)) | kwargs
        for name, parameter in parameters.items():
            if name in given:
                kinds = names.kinds(parameter.annotation)
                _check_argument(function.__name__, name, given[name], kinds)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]


class _Names:
    """The names in the annotations of a module: its own, built-in ones and public ones. Other names
    that are imported for type checking only stand for `object`."""

    def __init__(self, scope: Mapping[str, Any]) -> None:
        self._scope = scope

    def __getitem__(self, name: str) -> Any:
        known = self._scope.get(name, vars(builtins).get(name))
        found = getattr(mrbridge, name, object) if known is None else known
        return self._evaluated(found) if isinstance(found, str) else found  # an alias as text

    def _evaluated(self, annotation: str) -> Any:
        return eval(annotation, {}, self)  # type: ignore[arg-type]  # only items are asked for

    def kinds(self, annotation: str) -> list[tuple[Any, float]]:
        """The types that a value may have, each with the least value."""
        found = self._evaluated(annotation)
        union = get_origin(found) in (Union, UnionType)
        return [
            (get_args(kind)[0], get_args(kind)[1].ge)
            if get_origin(kind) is Annotated
            else (get_origin(kind) or kind, -math.inf)
            for kind in (get_args(found) if union else (found,))
        ]


def _check_argument(function: str, name: str, value: Any, kinds: list[tuple[Any, float]]) -> None:
    for kind, least in kinds:
        if _is_of(value, kind):
            if least > -math.inf and value < least:
                raise SettingsError(f"'{name}' cannot be {value}", remedy=f"Use {least} or more.")
            return
    words = [kind.__name__.replace("NoneType", "None") for kind, _ in kinds]
    allowed = " or ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)
    is_path = "Path" in words
    raise (InputError if is_path else SettingsError)(
        f"'{name}' must be {allowed}, not {type(value).__name__}",
        remedy="Pass a path; save it first if it is in memory."
        if is_path
        else f"See help(mrbridge.{function}).",
    )


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of a type; a truth value is not a number."""
    if kind is Any:
        return True
    if kind is Literal:
        return isinstance(value, str)
    if type(value).__name__ in ("bool", "bool_"):  # Python's or NumPy's
        return kind in (bool, object)
    return isinstance(value, {int: Integral, float: Real, Path: os.PathLike}.get(kind, kind))


def fields_of(model: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Every field of a settings class by its key, nested ones dotted.

    If a field holds one of several kinds of settings, the fields of all kinds.
    """
    fields: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        inner = _models(field.annotation)
        for kind in inner:
            for key, one in fields_of(kind, f"{prefix}{name}.").items():
                fields[key] = _either(fields[key], one) if key in fields else one
        if not inner:
            fields[f"{prefix}{name}"] = field
    return fields


def _either(first: FieldInfo, second: FieldInfo) -> FieldInfo:
    """The first field, with the values of both if they are words, such as the kind of a network."""
    if {get_origin(one.annotation) for one in (first, second)} == {Literal}:
        first = copy(first)
        words = get_args(first.annotation) + get_args(second.annotation)
        first.annotation = Literal[*dict.fromkeys(words)]  # type: ignore[assignment]
    return first


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `changes`, nested mappings key by key.

    A mapping of another `kind` replaces the one in `base` as a whole.
    """
    result = dict(base)
    for key, value in changes.items():
        inner = result.get(key)
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            is_other = "kind" in inner and value.get("kind", inner["kind"]) != inner["kind"]
            value = merged({} if is_other else inner, value)
        result[key] = value
    return result


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a": {"b": 3}}` for `{"a.b": 3}`."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        parts = reversed(key.split("."))
        result = merged(result, reduce(lambda inner, part: {part: inner}, parts, value))
    return result


def read_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Turn `["a.b=3", "c=[1, 2]"]` into `{"a": {"b": 3}, "c": [1, 2]}`; values are YAML.

    Raises:
        SettingsError: an assignment without `=` or with a value that is not YAML.
    """
    result: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key or key.count(".") >= _MOST_LEVELS:
            raise SettingsError(
                f"'{shortened(assignment)}' is not an assignment",
                remedy="Write key=value, as in epochs=20.",
            )
        try:
            value = _parse_yaml(text)
        except ValueError as error:
            raise SettingsError(
                f"the value in '{shortened(assignment)}' is not YAML ({error})", remedy="Quote it."
            ) from None
        result = merged(result, nested({key.strip(): value}))
    return result


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of settings; SettingsError if it cannot be read or does not hold a
    mapping."""
    try:
        with open(path, "rb") as file:
            values = _parse_yaml(file.read(_MOST_BYTES + 1).decode())
    except OSError as error:
        what = f"cannot be read ({error.strerror or error})"
        raise SettingsError(what, path=path, remedy="Check the path.") from None
    except ValueError as error:
        raise SettingsError(
            f"cannot be read as YAML ({error})", path=path, remedy="Check the file."
        ) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError("holds no key: value pairs", path=path, remedy="Write key: value.")
    return values


def _parse_yaml(text: str) -> Any:
    """What a YAML text holds.

    Raises:
        ValueError: it is not YAML, or would hold more values than settings ever do.
    """
    import yaml

    if len(text) > _MOST_BYTES:
        raise ValueError(f"it is longer than {_MOST_BYTES} characters")
    loader = None
    try:
        loader = yaml.SafeLoader(text)  # refuses control characters
        node = loader.get_single_node()
        if node is None:
            return None
        if _count(node, {}) > _MOST_VALUES:
            raise ValueError(f"it holds more than {_MOST_VALUES} values")
        _check_plain(node)
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except ValueError as error:  # such as the 99th of a month
        raise ValueError(shortened(str(error))) from None
    except yaml.YAMLError as error:
        raise ValueError(shortened(" ".join(str(error).split()), 400)) from None
    except (LookupError, AttributeError, TypeError, ArithmeticError):
        raise ValueError("a value is not of the type that its tag names") from None
    finally:
        if loader is not None:
            loader.dispose()


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """The number of values in a node; too many if it contains itself."""
    if id(node) not in known:
        known[id(node)] = _MOST_VALUES + 1  # until it is counted
        inner = node.value if isinstance(node.value, list) else []  # a scalar's value is text
        parts = [part for one in inner for part in (one if isinstance(one, tuple) else (one,))]
        known[id(node)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(node)]


def _check_plain(node: yaml.Node) -> None:
    """Refuse (ValueError) what YAML 1.1 reads as another number than it looks like, 1:30 as 90 or
    010 as 8, and a key that occurs twice, of which the last would count. The node is not nested too
    deep, without cycles."""
    if isinstance(node.value, str):
        is_number = node.tag.rpartition(":")[2] in ("int", "float")
        if is_number and re.search(r":|^[-+]?0[\d_]", node.value):
            raise ValueError(f"'{shortened(node.value)}' is not a plain decimal number")
        return
    seen = set()
    for one in node.value:
        parts = one if isinstance(one, tuple) else (one,)
        for part in parts:
            _check_plain(part)
        if len(parts) == 2 and isinstance(key := parts[0].value, str):
            if key in seen:
                raise ValueError(f"the key '{shortened(key)}' occurs twice")
            seen.add(key)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The settings class that a field holds, or the several that it may hold."""
    kinds = _kinds(annotation)
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """The types that a field may have."""
    union = get_origin(annotation) in (Union, UnionType)
    kinds = get_args(annotation) if union else (annotation,)
    return tuple(get_args(one)[0] if get_origin(one) is Annotated else one for one in kinds)


def _in_words(model: type[BaseModel], detail: Any) -> str:
    import difflib

    if not detail["loc"]:  # values that are each valid, but not together
        return shortened(str(detail["msg"]).removeprefix("Value error, "), 500)
    *above, last = (shortened(str(part), 80) for part in detail["loc"])
    prefix = ""
    kinds = [model]
    for part in above:
        fields = {name: field for kind in kinds for name, field in kind.model_fields.items()}
        if part in fields:
            prefix += f"{part}."
            kinds = _models(fields[part].annotation)
        else:  # the kind that a field holds, which is not part of the key
            kinds = [kind for kind in kinds if _is_called(kind, part)] or kinds
    key = prefix + last
    if detail["type"] != "extra_forbidden":
        why = shortened(str(detail["msg"]).removeprefix("Value error, "), 500)
        if detail["type"] == "value_error" and isinstance(detail["input"], Mapping):
            return f"in '{key}', {why}"
        return f"'{key}' cannot be {short_repr(detail['input'])}: {why}"
    here = {name: prefix + name for kind in kinds for name in fields_of(kind)}
    elsewhere = {name.rpartition(".")[2]: name for name in fields_of(model)}
    if prefix:  # keys of the other kinds do not help
        elsewhere = {name: at for name, at in elsewhere.items() if not at.startswith(prefix)}
    for known, cutoff in ((here, 0.8), (elsewhere, 0.8), (here, 0.5)):
        for near in difflib.get_close_matches(last, known, n=1, cutoff=cutoff):
            return f"there is no key '{key}', did you mean '{known[near]}'?"
    return f"there is no key '{key}'{_NOT_NEAR}"


def _is_called(model: type[BaseModel], kind: str) -> bool:
    field = model.model_fields.get("kind")
    return field is not None and field.default == kind
