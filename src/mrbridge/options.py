"""Options of the command line: those of several verbs, and those that settings define."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from functools import reduce
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import typer

from mrbridge.console import listen
from mrbridge.errors import SettingsError
from mrbridge.quick_imports import quick_imports

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from mrbridge.settings import Settings

Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print only errors.")]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="Print more, and tracebacks of errors.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="Device that computes; cuda is experimental.")
]
Workers = Annotated[int, typer.Option(min=1, help="Number of processes.")]
Dask = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Address of a Dask scheduler, such as tcp://host:8786, whose workers do the work.",
    ),
]
Model = Annotated[
    Path | None,
    typer.Option("-m", "--model", help="A run or a bundle [default: the shipped model]."),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; may be repeated."),
]
Config = Annotated[Path | None, typer.Option(help="YAML file of settings.")]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Also take a scan that its name or header calls something else: a mask, a map, a scan "
        "after a contrast agent.",
    ),
]


def _overwrite(otherwise: str) -> Any:
    """The option of verbs that write; `otherwise` says what they do without it."""
    described = f"Replace what mrbridge wrote there, and nothing else. Without it, {otherwise}."
    return Annotated[bool, typer.Option("--overwrite", help=described)]


OverwriteAll = _overwrite("a folder that is not empty is refused")
OverwriteStore = _overwrite("only changes are prepared")
OverwriteFiles = _overwrite("that is done as well")
OverwriteTable = _overwrite("a page is replaced, a table is not")
OverwritePhantom = _overwrite("the same dataset is kept, another one refused")

_SEVERAL = (
    *("--participant-label", "--participant_label", "--session-label", "--session_label"),
    *("--contrast", "--subjects"),
)


def who_works(workers: int, dask: str | None) -> int | str:
    """The workers for `mrbridge.parallel.map_scans`.

    Raises:
        SettingsError: both processes and a cluster are asked for.
    """
    if dask is not None and workers != 1:
        raise SettingsError("--workers and --dask exclude each other", remedy="Leave one out.")
    return workers if dask is None else dask


def spread(arguments: Sequence[str]) -> list[str]:
    """`--participant-label 01 02`, as the BIDS-App convention has it, with the option before each.

    Values end where the next option begins.

    Raises:
        SettingsError: such an option has no value, or an argument is empty, which as a path would
            mean the working directory.
    """
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if not argument or re.fullmatch(r"--?[\w-]+=", argument):
            option = argument.rstrip("=") or (before if before.startswith("-") else "an argument")
            raise SettingsError(
                f"{option} is empty", remedy="Check the variable that it comes from."
            )
    result: list[str] = []
    option = ""
    following = [*arguments, "-"][1:]
    for argument, after in zip(arguments, following, strict=True):
        if argument.startswith("-"):
            option = argument.partition("=")[0]
            option = option if option in _SEVERAL else ""
            if argument == option and after.startswith("-"):
                raise SettingsError(f"{option} is followed by no value", remedy="Name one.")
            result.append(argument)
        elif option and result[-1] != option:
            result += [option, argument]
        else:
            result.append(argument)
    return result


def layered(
    config: Path | None, assignments: Sequence[str] | None, named: dict[str, Any]
) -> dict[str, Any]:
    """A YAML file, then the options that were given, then --set, each over the one before."""
    from mrbridge.settings import merged, read_assignments, read_yaml

    layer = read_yaml(config) if config else {}
    layer = merged(layer, {key: value for key, value in named.items() if value is not None})
    return merged(layer, read_assignments(assignments or []))


class Verb:
    """A function as a verb: with -q, -v and --json, and the options of a settings model.

    Name, type, choices, range, help and default of an option are those of its field. The function
    gets `settings`: the defaults, changed by the file of `--config`, the options, and `--set`.

    Only `complete` imports the model, and gives the verb its parameters: settings take a tenth of a
    second to import, which other verbs and `mrbridge --help` do not need.
    """

    def __init__(self, function: Callable[..., None], model: str | None, keys: tuple[str, ...]):
        self._function, self._path, self._keys = function, model, keys
        self._model: type[Settings] | None = None
        self._options: dict[str, str] = {}
        self.__name__, self.__doc__ = function.__name__, function.__doc__
        self.__module__ = function.__module__
        self.__signature__ = inspect.Signature()
        self.__annotations__: dict[str, Any] = {}

    def __call__(self, quiet: bool, verbose: bool, as_json: bool, **given: Any) -> None:
        listen(quiet, verbose, as_json)
        if self._model is not None:
            from mrbridge.settings import merged

            named: dict[str, Any] = {}
            for name, key in self._options.items():
                value = given.pop(name)
                if value is not None:
                    parts = key.split(".")[::-1]
                    value = reduce(lambda inner, part: {part: inner}, parts, value)
                    named = merged(named, value)
            changes = layered(given.pop("config"), given.pop("assignments"), named)
            given["settings"] = self._model().changed(changes)
        self._function(**given)

    def complete(self) -> None:
        """Add the parameters."""
        added: dict[str, Any] = {}
        known: dict[str, Any] = {}
        if self._path is not None:
            module, _, name = self._path.rpartition(".")
            with quick_imports():
                model: type[Settings] = getattr(import_module(module), name)
            self._model, known = model, {name: model}
            keys = self._keys or tuple(model.model_fields)
            self._options = {key.replace(".", "_"): key for key in keys}
            added = {
                name: _option(key.rpartition(".")[2], _field(model, key))
                for name, key in self._options.items()
            }
            added |= {"config": Config, "assignments": Assignments}
        hints = get_type_hints(self._function, localns=known, include_extras=True)
        parameters = []
        for own in inspect.signature(self._function).parameters.values():
            if own.name == "settings" and added:
                parameters += [_parameter(name, None, kind) for name, kind in added.items()]
            else:
                parameters.append(_parameter(own.name, own.default, hints[own.name]))
        common = {"quiet": Quiet, "verbose": Verbose, "as_json": Json}
        parameters += [_parameter(name, False, kind) for name, kind in common.items()]
        self.__annotations__ = {one.name: one.annotation for one in parameters}
        self.__signature__ = inspect.Signature(parameters)


def verb(model: str | None = None, *keys: str) -> Callable[[Callable[..., None]], Verb]:
    """Make a function a `Verb`.

    Args:
        model: the dotted name of the settings; None: it has none.
        keys: the fields with options, those of nested settings dotted; none: all.
    """
    return lambda function: Verb(function, model, keys)


def _parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _field(model: type[Settings], key: str) -> FieldInfo:
    """The field of a dotted key."""
    *above, last = key.split(".")
    for part in above:
        model = model.model_fields[part].annotation  # type: ignore[assignment]
    return model.model_fields[last]


def _option(name: str, field: FieldInfo) -> Any:
    """The annotation of an option: type, names, help with the default, range."""
    from mrbridge.settings import Option

    option = next((one for one in field.metadata if isinstance(one, Option)), Option())
    kind = _without_none(field.annotation)
    is_list = get_origin(kind) is tuple
    default = field.default if option.default is None else option.default
    if isinstance(default, bool):
        default = "yes" if default else None
    described = field.description or ""
    if default not in (None, ()):
        described += f" [default: {default}]"
    limits = {
        limit: getattr(one, attribute)
        for one in field.metadata
        for limit, attribute in (("min", "ge"), ("max", "le"))
        if kind in (int, float) and hasattr(one, attribute)
    }
    names = option.names or (f"--{name.replace('_', '-')}",)
    typed = list[get_args(kind)[0]] if is_list else kind  # type: ignore[misc]
    shown = typer.Option(*names, metavar=option.metavar, help=described.strip(), **limits)
    return Annotated[typed | None, shown]


def _without_none(annotation: Any) -> Any:
    """The type of an optional field without None."""
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    return kinds[0] if len(kinds) == 1 else Union[tuple(kinds)]  # noqa: UP007
