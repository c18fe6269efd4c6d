"""What the command line says, and how loud: words, JSON, one line an error or warning."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from io import TextIOWrapper
from typing import Any, TypeVar

import typer

from mrbridge.errors import (
    Interrupted,
    MrbridgeError,
    MrbridgeWarning,
    OutputError,
    SomeScansFailed,
)
from mrbridge.quiet import tolerate_warnings
from mrbridge.urls import shown, without_secrets

STDOUT = "standard output"
READER_GONE = 141
"""The exit code where nobody reads what is written: 128 and SIGPIPE, as shells tell it."""

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
    """Log and warn on standard error; nothing that is said fails for want of a character.

    Streams that the caller closed become `/dev/null`, so that no file that is opened later takes
    their place. Failures of threads and of finalisers are told with -v only: whoever waits for
    their work fails too, and says so.
    """
    _open_streams()
    tolerate_warnings()
    logging.raiseExceptions = False  # a log that cannot be written stops nothing
    threading.excepthook = _thread_failed
    sys.unraisablehook = _lost
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler = _ToStderr()
    handler.setFormatter(_OneLine())
    logger = logging.getLogger("mrbridge")
    logger.handlers, logger.propagate = [handler], False
    warnings.showwarning = _show_warning


def listen(quiet: bool, verbose: bool, as_json: bool) -> None:
    """Apply -q, -v and --json.

    Of processes that train together, only the first prints more than errors.
    """
    from mrbridge import progress

    if int(os.environ.get("RANK", "0")) > 0:
        quiet, as_json = True, False
    said.quiet, said.verbose, said.json = quiet, verbose, as_json
    progress.set_quiet(quiet)
    level = logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO
    logging.getLogger("mrbridge").setLevel(level)
    if quiet:
        warnings.simplefilter("ignore", MrbridgeWarning)


def answer(result: dict[str, Any], text: str) -> None:
    """Print a verb's result: one JSON object, or words."""
    said.answered = True
    if not said.json and said.quiet:
        return
    told = json.dumps(plain(result), allow_nan=False) if said.json else shown(text)
    try:
        typer.echo(told)
    except BrokenPipeError as error:
        raise ReaderGone from error
    except OSError as error:
        raise _unwritten(error) from error


def as_far_as_done(
    work: Callable[[], Result],
) -> tuple[Result, SomeScansFailed | Interrupted | None]:
    """What a batch has done, and the error if some of it failed or it was interrupted.

    Whoever asks gives the answer first, and raises the error then.
    """
    try:
        return work(), None
    except (SomeScansFailed, Interrupted) as error:
        if error.result is None:
            raise
        return error.result, error


def interruption_of(failure: MrbridgeError | None) -> dict[str, Any]:
    """What the answer of a verb says besides, where it was interrupted."""
    if not isinstance(failure, Interrupted):
        return {}
    return {"interrupted": True, "error": str(failure), "exit_code": failure.exit_code}


class ReaderGone(Exception):
    """Nobody reads standard output any more."""


def flush(code: int) -> int:
    """Write what waits in the streams, so that nothing is left to fail when Python ends.

    Args:
        code: the exit code so far.

    Returns:
        The exit code: another one where the answer could not be written.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            _to_nowhere(stream)
            code = READER_GONE if stream is sys.stdout else code
        except (OSError, ValueError) as error:
            _to_nowhere(stream)
            if stream is sys.stdout and not code:
                told = error if isinstance(error, OSError) else OSError(str(error))
                code = complain(str(_unwritten(told)), OutputError.exit_code)
    return code


def plain(value: Any) -> Any:
    """What JSON can hold: NaN and infinity become null; paths that mirror URLs, the URLs."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, str):
        return without_secrets(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def complain(text: str, code: int, more: dict[str, Any] | None = None) -> int:
    """Say in one line what went wrong; with -v, where; with --json as an answer, if none was given.

    Args:
        text: what went wrong.
        code: the exit code, which is returned.
        more: what an answer says besides.
    """
    line = " ".join(text.split())
    with suppress(OSError, ValueError):  # the exit code tells, too
        if said.verbose:
            traceback.print_exc()
        sys.stderr.write(f"error: {shown(line)}\n")
        sys.stderr.flush()
    if said.json and not said.answered:
        with suppress(OutputError, ReaderGone):
            answer({"error": line, "exit_code": code} | (more or {}), "")
    return code


def _unwritten(error: OSError) -> OutputError:
    return OutputError(
        f"cannot be written ({error.strerror or error})", path=STDOUT, remedy="Make room."
    )


def _open_streams() -> None:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))


def _to_nowhere(stream: Any) -> None:
    """Let what a stream still holds go to `/dev/null`: Python tries again when it ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()


def _thread_failed(told: threading.ExceptHookArgs) -> None:
    if said.verbose:
        threading.__excepthook__(told)


def _lost(told: Any) -> None:
    if said.verbose:
        sys.__unraisablehook__(told)


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
        with suppress(OSError, ValueError):
            sys.stderr.write(f"warning: {shown(str(message))}\n")
