"""What the command line says, and how loud: words, JSON, one line an error or warning."""

from __future__ import annotations

import json
import logging
import math
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import TextIOWrapper
from typing import Any, TypeVar

import typer

from mrbridge.errors import MrbridgeWarning, SomeScansFailed
from mrbridge.urls import shown, without_secrets

Result = TypeVar("Result")


@dataclass
class Verbosity:
    """What was asked for with -q, -v and --json, and whether a verb has given its answer."""

    quiet: bool = False
    verbose: bool = False
    json: bool = False
    answered: bool = False


said = Verbosity()


def set_up() -> None:
    """Log and warn on standard error; nothing that is said fails for want of a character."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler = _ToStderr()
    handler.setFormatter(_OneLine())
    logger = logging.getLogger("mrbridge")
    logger.handlers, logger.propagate = [handler], False
    warnings.showwarning = _show_warning


def listen(quiet: bool, verbose: bool, as_json: bool) -> None:
    """Apply -q, -v and --json."""
    from mrbridge import progress

    said.quiet, said.verbose, said.json = quiet, verbose, as_json
    progress.set_quiet(quiet)
    level = logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO
    logging.getLogger("mrbridge").setLevel(level)
    if quiet:
        warnings.simplefilter("ignore", MrbridgeWarning)


def answer(result: dict[str, Any], text: str) -> None:
    """Print a verb's result: one JSON object, or words."""
    said.answered = True
    if said.json:
        typer.echo(json.dumps(plain(result), allow_nan=False))
    elif not said.quiet:
        typer.echo(shown(text))


def as_far_as_done(work: Callable[[], Result]) -> tuple[Result, SomeScansFailed | None]:
    """What a batch has done, and the error if some of it failed.

    Whoever asks gives the answer first, and raises the error then.
    """
    try:
        return work(), None
    except SomeScansFailed as error:
        return error.result, error


def plain(value: Any) -> Any:
    """What JSON can hold: NaN and infinity become null; paths that mirror URLs, the URLs."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, str):
        return without_secrets(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def complain(text: str, code: int) -> int:
    """Say in one line what went wrong; with -v, where; with --json as an answer, if none was given.

    Args:
        text: what went wrong.
        code: the exit code, which is returned.
    """
    if said.verbose:
        traceback.print_exc()
    line = " ".join(text.split())
    sys.stderr.write(f"error: {shown(line)}\n")
    if said.json and not said.answered:
        answer({"error": line, "exit_code": code}, "")
    return code


class _ToStderr(logging.StreamHandler[Any]):
    """Writes to what standard error is now: a progress bar takes its place for a while."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return shown(" ".join(record.getMessage().splitlines()))


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Warnings of our own as one line; those of libraries only with -v."""
    if issubclass(category, MrbridgeWarning) or said.verbose:
        sys.stderr.write(f"warning: {shown(str(message))}\n")
