"""Options that several verbs take, and how those that are settings lie over one another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say only what went wrong.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Say more; add tracebacks.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that work side by side.")]
Model = Annotated[
    Path | None, typer.Option("-m", "--model", help="A run or a bundle [the shipped model].")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; may be repeated."),
]
Config = Annotated[Path | None, typer.Option(help="YAML file of settings.")]


def layered(
    config: Path | None, assignments: Sequence[str] | None, named: dict[str, Any]
) -> dict[str, Any]:
    """A YAML file, then the options that were given, then --set, each over the one before."""
    from mrbridge.settings import merged, read_assignments, read_yaml

    layer = read_yaml(config) if config else {}
    layer = merged(layer, {key: value for key, value in named.items() if value is not None})
    return merged(layer, read_assignments(assignments or []))
