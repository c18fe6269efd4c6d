"""The command line: its verbs and its exit codes."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import Abort, TyperException

from mrbridge import __version__, console, interruption, training_verbs, verbs
from mrbridge.console import complain
from mrbridge.errors import Interrupted, as_error
from mrbridge.options import Verb, new_program, spread
from mrbridge.threads import share_the_machine

VERBS = (
    *(verbs.demo, verbs.phantom, verbs.prepare, verbs.inspect),
    *(training_verbs.train, training_verbs.tune, training_verbs.benchmark),
    *(verbs.translate, verbs.evaluate, verbs.serve, verbs.view, verbs.export),
    *(verbs.info, verbs.doctor),
)
"""Every verb, in the order of a workflow."""

DOWNLOADS = verbs.ixi, verbs.openneuro
"""The verbs of `mrbridge download`."""

STUDY = verbs.setup, verbs.rate, verbs.analyse
"""The verbs of `mrbridge study`."""

app = new_program(
    "Learns from unpaired scans to turn T1-weighted brain MR images into T2-weighted ones and "
    "back. All its results are synthetic: for research, not for diagnosis.",
    VERBS,
    completes=True,
)


def _show_help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for _name, _help, _verbs in (
    ("download", "Download public datasets as BIDS.", DOWNLOADS),
    ("study", "Ask raters which scans are synthetic, and how good they are.", STUDY),
):
    _group = new_program(_help, _verbs)
    _group.callback(invoke_without_command=True)(_show_help)
    app.add_typer(_group, name=_name, epilog=f"Example: {_verbs[0].example}")


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"mrbridge {__version__}")
    else:
        _show_help(context)


def main(arguments: Sequence[str] | None = None, bids_app: Verb | None = None) -> None:
    """Run a command line, of `mrbridge` or of the BIDS App, and exit with its code."""
    share_the_machine()  # before a verb imports PyTorch
    console.set_up()
    interruption.listen()
    os.environ["PYTHONSAFEPATH"] = "1"  # of all processes that any library starts; see `python -P`
    code = _run(arguments, bids_app)
    interruption.finish(code)
    code = console.flush(code)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        os._exit(code)  # a thread of Gloo sometimes aborts a normal exit: torchrun would stop all
    # Before it ends, Python searches all objects for cycles once more: a second, with PyTorch.
    gc.freeze()
    sys.exit(code)


def _run(arguments: Sequence[str] | None, bids_app: Verb | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    is_completion = not bids_app and _COMPLETE in os.environ  # a shell asks what may follow
    words = (
        " ".join(os.environ.get(name, "") for name in _LINES).split() if is_completion else given
    )
    console.verbosity.json = "--json" in given  # for errors before the options are parsed
    console.verbosity.verbose = "-v" in given or "--verbose" in given
    console.verbosity.answered = False
    try:
        several: set[str] = set()
        for one in (bids_app,) if bids_app else VERBS + DOWNLOADS + STUDY:
            if bids_app or one.__name__ in words:
                one.complete()
                several |= one.several()
        interruption.begin()
        os.getcwd()
        # Typer turns KeyboardInterrupt into exit code 130, and returns it.
        program = new_program("", [bids_app]) if bids_app else app
        name = "mrbridge_bids" if bids_app else "mrbridge"
        code = program(args=spread(given, several), prog_name=name, standalone_mode=False)
        return _interrupted() if code == _TYPER_INTERRUPTED else 0
    except KeyboardInterrupt:
        return _interrupted()
    except console.ReaderGone:
        return console.READER_GONE
    except SystemExit as error:  # of Typer, whose own output has no reader
        return console.READER_GONE if error.code == 1 else int(error.code or 0)
    except FileNotFoundError as error:
        try:
            os.getcwd()
        except FileNotFoundError:
            return complain("the working directory was deleted. Change to another one.", 2)
        return _failed(error)
    except Exception as error:
        return _failed(error)


_TYPER_INTERRUPTED = 130
_COMPLETE = "_MRBRIDGE_COMPLETE"
_LINES = ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")  # the command line so far, in Bash and elsewhere


def _interrupted() -> int:
    return complain("interrupted", interruption.EXIT_CODE, {"interrupted": True})


def _failed(error: Exception) -> int:
    """Report an exception."""
    cause = error.__cause__ if isinstance(error, Abort) else error
    if interruption.was_asked() and not isinstance(error, Interrupted):
        return _interrupted()  # interrupted work may fail in any way
    if isinstance(error, TyperException):
        context = getattr(error, "ctx", None)  # only errors of usage know their command
        message = error.format_message().replace("Value error, ", "")  # of pydantic
        hint = f" Try '{context.command_path} -h'." if context else ""
        return complain(f"{message.removesuffix('.')}.{hint}", 2)
    reported = as_error(cause if isinstance(cause, Exception) else error)
    more = {"interrupted": True} | reported.counts if isinstance(reported, Interrupted) else None
    return complain(str(reported), reported.exit_code, more)


if __name__ == "__main__":
    main()
