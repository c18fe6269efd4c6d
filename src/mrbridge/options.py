"""Options that several verbs take, and how those that are settings lie over one another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mrbridge.errors import SettingsError

Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say only what went wrong.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Say more; add tracebacks.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda (experimental).")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that work side by side.")]
Dask = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="Work on a Dask cluster instead: its scheduler, as tcp://host:8786."
    ),
]
Model = Annotated[
    Path | None, typer.Option("-m", "--model", help="A run or a bundle [the shipped model].")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; may be repeated."),
]
Config = Annotated[Path | None, typer.Option(help="YAML file of settings.")]
Participants = Annotated[
    list[str] | None,
    typer.Option(
        "--participant-label",
        "--participant_label",
        metavar="LABEL…",
        help="Of a BIDS data set: only these, as in 01 02.",
    ),
]
Sessions = Annotated[
    list[str] | None,
    typer.Option(
        "--session-label",
        "--session_label",
        metavar="LABEL…",
        help="Of a BIDS data set: only these.",
    ),
]
BidsFilter = Annotated[
    Path | None,
    typer.Option(
        "--bids-filter-file",
        metavar="FILE",
        help='Of a BIDS data set: JSON such as {"t1w": {"acquisition": null}}.',
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Also what its name or header says to be something else: a mask, a map, a scan after "
        "a contrast agent.",
    ),
]


def _overwrite(otherwise: str) -> Any:
    """The option of verbs that write; `otherwise` says what they do without it."""
    told = f"Replace what mrbridge made there, and nothing else [{otherwise}]."
    return Annotated[bool, typer.Option("--overwrite", help=told)]


Overwrite = _overwrite(
    "files and DICOM series: done anyway; BIDS data sets: keep what is up to date, refuse the rest"
)
OverwriteAll = _overwrite("a folder that is not empty is refused")
OverwriteStore = _overwrite("make only what changed")
OverwriteFiles = _overwrite("done anyway")
OverwriteTable = _overwrite("a page is replaced, a table is not")
OverwriteData = _overwrite("fetch only what is missing")
OverwritePhantom = _overwrite("the same data set is kept, another one refused")

Series = Annotated[
    str | None, typer.Option(help="Which DICOM series: its number or UID [by contrast].")
]
AllowGaps = Annotated[
    bool, typer.Option("--allow-gaps", help="Fill missing DICOM slices by interpolation.")
]
Form = Annotated[
    str | None, typer.Option("--as", help="What DICOM becomes: dicom or nifti [dicom].")
]

_SEVERAL = (
    *("--participant-label", "--participant_label", "--session-label", "--session_label"),
    *("--contrast", "--subjects"),
)


def who_works(workers: int, dask: str | None) -> int | str:
    """What `mrbridge.scale.map_scans` takes for its workers.

    Raises:
        SettingsError: both processes and a cluster are asked for.
    """
    if dask is not None and workers != 1:
        raise SettingsError(
            "work is shared out by --workers here, or by --dask elsewhere", remedy="Leave one out."
        )
    return workers if dask is None else dask


def spread(arguments: Sequence[str]) -> list[str]:
    """`--participant-label 01 02`, as the BIDS-App convention has it, with the option before each.

    Values end where the next option begins.

    Raises:
        SettingsError: such an option is followed by no value, or an argument is empty, which as a
            path would mean the working directory.
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
