"""The command line: its verbs and its exit codes."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import Abort, TyperException

from mrbridge import __version__, console, interruption
from mrbridge.children import SAFE_PATH
from mrbridge.console import complain
from mrbridge.download import command as download
from mrbridge.errors import Interrupted
from mrbridge.options import Verb, spread
from mrbridge.threads import share_the_machine
from mrbridge.unexpected import as_error
from mrbridge.verbs import bundles, images, scans

VERBS: dict[Verb, str] = {
    scans.demo: "mrbridge demo -o demo --minutes 5",
    scans.phantom: "mrbridge phantom -o phantom --subjects 8",
    scans.prepare: "mrbridge prepare bids -o store --workers 2",
    scans.inspect: "mrbridge inspect bids -o report.html --workers 2",
    bundles.train: "mrbridge train store -o run --preset unet --set epochs=30",
    images.translate: "mrbridge translate -i sub-01_T1w.nii.gz -o sub-01_T2w.nii.gz",
    images.evaluate: "mrbridge evaluate -m run --pairs bids -o scores",
    bundles.export: "mrbridge export -m run --to onnx -o exported",
    bundles.info: "mrbridge info unet --json",
}
"""Every verb with an example, in the order of a workflow."""

app = typer.Typer(
    name="mrbridge",
    help="Learns from unpaired scans to turn T1-weighted brain MR images into T2-weighted ones and "
    "back. All its results are synthetic: for research, not for diagnosis.",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for one, example in VERBS.items():
    app.command(one.__name__, epilog=f"Example: {example}")(one)
app.add_typer(download.app)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"mrbridge {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None, program: typer.Typer | None = None) -> None:
    """Run a command line, by default this one, and exit with its code."""
    share_the_machine()  # before a verb imports PyTorch
    console.set_up()
    interruption.listen()
    os.environ[SAFE_PATH] = "1"  # of all processes that any library starts
    code = _run(arguments, program)
    interruption.finish(code)
    code = console.flush(code)
    # Before it ends, Python searches all objects for cycles once more: a second, with PyTorch.
    gc.freeze()
    sys.exit(code)


def _run(arguments: Sequence[str] | None, program: typer.Typer | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    console.verbosity.json = "--json" in given  # for errors before the options are parsed
    console.verbosity.verbose = "-v" in given or "--verbose" in given
    console.verbosity.answered = False
    try:
        for one in (*VERBS, *download.VERBS):
            if one.__name__ in given:
                one.complete()
        interruption.begin()
        os.getcwd()
        # Typer turns KeyboardInterrupt into exit code 130, and returns it.
        name = "mrbridge" if program is None else "mrbridge_bids"
        code = (program or app)(args=spread(given), prog_name=name, standalone_mode=False)
        return _interrupted() if code == _TYPER_INTERRUPTED else 0
    except KeyboardInterrupt:
        return _interrupted()
    except console.ReaderGone:
        return console.READER_GONE
    except SystemExit as error:  # of Typer, whose own output has no reader
        return console.READER_GONE if error.code == 1 else int(error.code or 0)
    except FileNotFoundError as error:
        if _is_working_directory_gone():
            return complain("the working directory was deleted. Change to another one.", 2)
        return _failed(error)
    except Exception as error:
        return _failed(error)


_TYPER_INTERRUPTED = 130


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


def _is_working_directory_gone() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


if __name__ == "__main__":
    main()
