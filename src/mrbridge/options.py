"""Options of the command line, from the fields of settings models."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from pkgutil import resolve_name
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer
from typer.core import TyperCommand

from mrbridge.console import listen
from mrbridge.errors import SettingsError
from mrbridge.interruption import quick_imports
from mrbridge.text import is_url

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from mrbridge.settings import Settings, VerbSettings

Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print only errors.")]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="Print more, and tracebacks of errors.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
Config = Annotated[
    Path | None, typer.Option(metavar="FILE", help="YAML file of settings, by their keys.")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; may be repeated."),
]


def spread(arguments: Sequence[str], several: Collection[str]) -> list[str]:
    """`--participant-label 01 02`, as the BIDS-App convention has it, with the option before each
    value, up to the next option; `several` are the options that take several. SettingsError if one
    has no value, or an argument is empty, which as a path would mean the working directory."""
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
            option = option if option in several else ""
            if argument == option and after.startswith("-"):
                raise SettingsError(f"{option} is followed by no value", remedy="Name one.")
            result.append(argument)
        elif option and result[-1] != option:
            result += [option, argument]
        else:
            result.append(argument)
    return result


class Verb:
    """A function as a verb, with the options that its model declares, and -q, -v and --json.

    The function takes an instance of the model. If the model has a `stage`, the settings of that
    stage come second: its defaults, changed by the file of `--config`, the options, and `--set`, in
    this order; or only the changes, if the parameter is called `changes`.

    Only `complete` imports the model, and gives the verb its parameters: settings take a tenth of a
    second to import, which other verbs and `mrbridge --help` do not need.
    """

    def __init__(self, function: Callable[..., None], path: str, example: str) -> None:
        self.function, self._path, self.example = function, path, example
        self._model: type[VerbSettings] | None = None
        self._stage: type[Settings] | None = None
        self.__name__, self.__doc__ = function.__name__, function.__doc__
        self.__module__ = function.__module__
        self.__signature__ = inspect.Signature()
        self.__annotations__: dict[str, Any] = {}

    def __call__(self, quiet: bool, verbose: bool, as_json: bool, **values: Any) -> None:
        listen(quiet, verbose, as_json)
        assert self._model is not None, "call complete first"
        named = {name: value for name, value in values.items() if value is not None}
        own = {name: named.pop(name) for name in self._model.model_fields if name in named}
        arguments: list[Any] = [self._model.build(own)]
        if self._stage is not None:
            changes = self._changes(named.pop("config", None), named.pop("assignments", ()), named)
            is_raw = "changes" in inspect.signature(self.function).parameters
            arguments.append(changes if is_raw else self._stage.defaults().changed(changes))
        self.function(*arguments)

    def _changes(
        self, config: Path | None, assignments: Sequence[str], named: Mapping[str, Any]
    ) -> dict[str, Any]:
        """A YAML file, then the options by their names, then `--set`, each over the one before."""
        from mrbridge.settings import merged, nested, read_assignments, read_yaml

        changes = read_yaml(config) if config else {}
        for key in self.option_keys():
            if (name := key.replace(".", "_")) in named:
                changes = merged(changes, nested({key: named[name]}))
        return merged(changes, read_assignments(assignments))

    def complete(self) -> None:
        """Import the model, and add the parameters."""
        with quick_imports():
            model: type[VerbSettings] = resolve_name(self._path)
            self._model, self._stage = model, model.stage_settings()
        parameters = [_parameter(name, field, field.default) for name, field in self.fields()]
        if self._stage is not None:
            listed = dict(self.settings())
            parameters += [_parameter(key, *listed[key]) for key in self.option_keys()]
            for name, annotation in (("config", Config), ("assignments", Assignments)):
                parameters.append(_keyword(name, annotation, None))
        common = {"quiet": Quiet, "verbose": Verbose, "as_json": Json}
        parameters += [_keyword(name, annotation, False) for name, annotation in common.items()]
        self.__annotations__ = {one.name: one.annotation for one in parameters}
        self.__signature__ = inspect.Signature(parameters)

    def fields(self) -> list[tuple[str, FieldInfo]]:
        """The fields of the model, those that it inherits last."""
        assert self._model is not None, "call complete first"
        own = inspect.get_annotations(self._model)
        return sorted(self._model.model_fields.items(), key=lambda item: item[0] not in own)

    def option_keys(self) -> tuple[str, ...]:
        """The keys of the stage's settings that have options."""
        if self._model is None or self._stage is None:
            return ()
        keys = self._model.setting_keys
        return tuple(self._stage.model_fields) if keys is None else keys

    def settings(self) -> Iterator[tuple[str, tuple[FieldInfo, Any]]]:
        """The settings of the stage: key, field and default."""
        from mrbridge.settings import fields_of

        if self._stage is not None:
            defaults = self._stage.defaults().model_dump()
            for key, field in fields_of(self._stage).items():
                try:
                    default = reduce(getitem, key.split("."), defaults)
                except KeyError:  # of another kind than the default has
                    default = field.default
                yield key, (field, default)

    def several(self) -> set[str]:
        """The names of the options that take several values."""
        stage = dict(self.settings())
        fields = self.fields() + [(key, stage[key][0]) for key in self.option_keys()]
        return {
            one for key, field in fields if _element(field)[1] for one in option_names(key, field)
        }

    def rows(self) -> list[tuple[str, str]]:
        """The settings that have no option, for the help: key and description."""
        return [
            (f"{key} {metavar(field)}", described(field, default))
            for key, (field, default) in self.settings()
            if key not in self.option_keys()
        ]


class Command(TyperCommand):
    """The command of a `Verb`: its help lists the settings that have no option, too."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, options and settings."""
        arguments, options = [], []
        for one in self.get_params(ctx):
            record = one.get_help_record(ctx)
            if record is not None and one.param_type_name == "argument":
                arguments.append((str(one.metavar), record[1]))
            elif record is not None:
                options.append(record)
        settings = self.callback.__wrapped__.rows()  # type: ignore[union-attr]
        title = "Further settings, for --set and --config"
        for name, rows in (("Arguments", arguments), ("Options", options), (title, settings)):
            if rows:
                with formatter.section(name):
                    formatter.write_dl(rows)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The usage line, with the arguments as the help lists them."""
        arguments = [one for one in self.get_params(ctx) if one.param_type_name == "argument"]
        names = [str(one.metavar) if one.required else f"[{one.metavar}]" for one in arguments]
        return [str(self.options_metavar), *names]


def new_program(described: str, verbs: Sequence[Verb], *, completes: bool = False) -> typer.Typer:
    """A program, or a group of verbs; `completes`: whether it has options to install the completion
    of a shell."""
    program = typer.Typer(
        help=described,
        add_completion=completes,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for one in verbs:
        program.command(one.__name__, cls=Command, epilog=f"Example: {one.example}")(one)
    return program


def verb(model: str, example: str) -> Callable[[Callable[..., None]], Verb]:
    """Make a function a `Verb` with the model of this name (`module:Name`), and an example."""
    return lambda function: Verb(function, model, example)


def described(field: FieldInfo, default: Any) -> str:
    """The description of a field, with its default."""
    from pydantic_core import PydanticUndefined

    option = _option_of(field)
    default = default if option.default is None else option.default
    if isinstance(default, bool):
        default = "yes" if default else None
    text = field.description or ""
    if default in (None, (), {}, PydanticUndefined):
        return text
    if isinstance(default, tuple):
        default = " ".join(map(str, default))
    return f"{text} [default: {default}]"


def option_names(name: str, field: FieldInfo) -> tuple[str, ...]:
    """The names of the option of a field."""
    return _option_of(field).names or (f"--{name.rpartition('.')[2].replace('_', '-')}",)


def _parameter(name: str, field: FieldInfo, default: Any) -> inspect.Parameter:
    """The parameter of a verb for a field: type, names, help with the default, range."""
    option, kind, is_list = _option_of(field), *_element(field)
    shown: dict[str, Any] = {"help": described(field, default)}
    if kind is not bool:
        shown["metavar"] = metavar(field)
    for limit, attribute in (("min", "ge"), ("max", "le")):
        for one in field.metadata:
            if kind in (int, float) and hasattr(one, attribute):
                shown[limit] = getattr(one, attribute)
    if option.place:
        shown["parser"] = _place
    typed = list[kind] if is_list else kind  # type: ignore[valid-type]
    if option.argument:
        info = typer.Argument(**shown)
    else:
        if option.callback is not None:
            shown |= {"callback": option.callback, "is_eager": True}
        info = typer.Option(*option_names(name, field), **shown)
    if field.is_required():
        return _keyword(name, Annotated[typed, info], inspect.Parameter.empty)
    return _keyword(name.replace(".", "_"), Annotated[typed | None, info], None)


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _option_of(field: FieldInfo) -> Any:
    from mrbridge.settings import Option

    return next((one for one in field.metadata if isinstance(one, Option)), Option())


def _element(field: FieldInfo) -> tuple[Any, bool]:
    """The type of one value of a field, and whether it takes several."""
    kind: Any = field.annotation
    if get_origin(kind) in (Union, UnionType):
        kinds = [one for one in get_args(kind) if one is not NoneType]
        kind = kinds[0] if len(kinds) == 1 else Union[tuple(kinds)]  # noqa: UP007
    if get_origin(kind) is tuple:
        element = get_args(kind)[0]
        return (get_args(element)[0] if get_origin(element) is Annotated else element), True
    return kind, False


def metavar(field: FieldInfo) -> str:
    """What the help shows in place of a value."""
    option, kind, is_list = _option_of(field), *_element(field)
    if option.metavar is not None:
        return str(option.metavar)
    if option.place:
        shown = "PATH|URL"
    elif get_origin(kind) is Literal:
        shown = "|".join(map(str, get_args(kind)))
    else:
        names = {str: "TEXT", int: "INTEGER", float: "NUMBER", bool: "YES|NO", Path: "PATH"}
        shown = names.get(kind, "VALUE")
    return f"{shown}…" if is_list else shown


def _place(text: str) -> Path:
    """A path, or the local mirror of a URL."""
    if not is_url(text):
        return Path(text)
    from mrbridge.io.remote import localise

    path: Path = localise(text)
    return path
