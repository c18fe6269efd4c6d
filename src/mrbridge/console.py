"""Output of the command line: results as text or JSON, errors and warnings in one line each."""

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
    MrbridgeWarning,
    OutputError,
    SettingsError,
    SomeScansFailed,
)
from mrbridge.quiet import tolerate_warnings
from mrbridge.text import shown, without_secrets

STDOUT = "standard output"
READER_GONE = 141
"""The exit code if the reader of standard output is gone: 128 and SIGPIPE, as in shells."""

Result = TypeVar("Result")


@dataclass
class Verbosity:
    """The options -q, -v and --json, and whether the verb has printed its result."""

    quiet: bool = False
    verbose: bool = False
    json: bool = False
    answered: bool = False


verbosity = Verbosity()


def set_up() -> None:
    """Log and warn on standard error; characters that it cannot show are escaped.

    Streams that the caller closed become `/dev/null`, so that no file that is opened later takes
    their place. Failures of threads and finalisers are shown with -v only: the code that waits for
    their work fails as well, and reports it.
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

    Of processes that train together, only the first prints more than errors. Errors as for
    `number_of`.
    """
    if is_follower():
        quiet, as_json = True, False
    verbosity.quiet, verbosity.verbose, verbosity.json = quiet, verbose, as_json
    level = logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO
    logging.getLogger("mrbridge").setLevel(level)
    if quiet:
        warnings.simplefilter("ignore", MrbridgeWarning)


def number_of(variable: str, default: int | None = None) -> int:
    """The number in an environment variable, as `torchrun` sets it for processes that train
    together; `default` if it is not set, unless that is None. SettingsError if it is not a number
    from 0."""
    value = os.environ.get(variable, "" if default is None else str(default))
    if not (value.isascii() and value.isdigit()):
        raise SettingsError(
            f"the environment variable {variable} is '{value}', not a number",
            remedy="Unset WORLD_SIZE and RANK: torchrun sets them itself.",
        )
    return int(value)


def is_follower() -> bool:
    """Whether this is another process than the first of several that train together, which prints
    and writes for all. Errors as for `number_of`."""
    return number_of("WORLD_SIZE", 1) > 1 and number_of("RANK") > 0


def answer(
    result: dict[str, Any],
    text: str,
    failure: SomeScansFailed | Interrupted | None = None,
    *,
    secrets: bool = False,
) -> None:
    """Print the result of a verb, as one JSON object or as text, then raise the failure, if it is
    not complete (`as_far_as_done`). `secrets`: also print what URLs in it keep secret, since the
    user needs it."""
    if isinstance(failure, Interrupted):
        result = result | {
            "interrupted": True,
            "error": str(failure),
            "exit_code": failure.exit_code,
        }
    if not secrets:
        result, text = plain(result), shown(text)
    verbosity.answered = True
    try:
        if verbosity.json or not verbosity.quiet:
            typer.echo(json.dumps(result, allow_nan=False) if verbosity.json else text)
    except BrokenPipeError as error:
        raise ReaderGone from error
    except OSError as error:
        raise _unwritten(error) from error
    if failure is not None:
        raise failure


def answer_url(url: str) -> None:
    """Print the URL of a server that has started, with its token."""
    answer({"url": url}, f"Open {url}\nCtrl-C ends it.", secrets=True)
    flush(0)


def as_far_as_done(
    work: Callable[[], Result],
) -> tuple[Result, SomeScansFailed | Interrupted | None]:
    """The results of a batch, and the error if some of it failed or it was interrupted."""
    try:
        return work(), None
    except (SomeScansFailed, Interrupted) as error:
        if error.result is None:
            raise
        return error.result, error


class ReaderGone(Exception):
    """The reader of standard output is gone."""


def flush(code: int) -> int:
    """Flush the streams, so that nothing can fail when Python ends. The exit code: `code`, or
    another one if the result could not be written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            _to_nowhere(stream)
            code = READER_GONE if stream is sys.stdout else code
        except (OSError, ValueError) as error:
            _to_nowhere(stream)
            if stream is sys.stdout and not code:
                cause = error if isinstance(error, OSError) else OSError(str(error))
                code = complain(str(_unwritten(cause)), OutputError.exit_code)
    return code


def plain(value: Any) -> Any:
    """A value for JSON: NaN and infinity become null; paths that mirror URLs, the URLs."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, str):
        return without_secrets(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def complain(text: str, code: int, more: dict[str, Any] | None = None) -> int:
    """Print an error in one line, with -v its traceback, with --json as JSON, unless a result was;
    `more` are further keys of the JSON. The exit code is returned."""
    line = " ".join(text.split())
    with suppress(OSError, ValueError):  # there still is the exit code
        if verbosity.verbose:
            traceback.print_exc()
        sys.stderr.write(f"error: {shown(line)}\n")
        sys.stderr.flush()
    if verbosity.json and not verbosity.answered:
        with suppress(OutputError, ReaderGone):
            answer({"error": line, "exit_code": code} | (more or {}), "")
    return code


def _unwritten(error: OSError) -> OutputError:
    return OutputError(
        f"cannot be written ({error.strerror or error})",
        path=STDOUT,
        remedy="Free some disk space.",
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
    """Send the rest of a stream to `/dev/null`: Python would try again when it ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()


def _thread_failed(arguments: threading.ExceptHookArgs) -> None:
    if verbosity.verbose:
        threading.__excepthook__(arguments)


def _lost(unraisable: Any) -> None:
    if verbosity.verbose:
        sys.__unraisablehook__(unraisable)


class _ToStderr(logging.StreamHandler[Any]):
    """Writes to the present standard error, which a progress bar replaces for a while."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return shown(" ".join(record.getMessage().splitlines()))


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Warnings of mrbridge in one line; those of libraries only with -v."""
    if issubclass(category, MrbridgeWarning) or verbosity.verbose:
        with suppress(OSError, ValueError):
            sys.stderr.write(f"warning: {shown(str(message))}\n")
