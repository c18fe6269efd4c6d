"""The table of faults: what a user can meet, how it is caused, and how the page is written.

A fault is a function under `@fault(row)` in one of the modules that `everything` imports; its
docstring is its name on the page. It gets a `Workshop`, does what a user would do, checks what must
hold afterwards and returns the outcome. A law is a property of a row that another test shows and
that has no message.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import re
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.data.golden_bundle import FOLDER as MODEL
from tests.faults.promises import section

from mrbridge import cli, console

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "faults.md"

MODULES = ("scans", "dicom", "places", "models")
"""Where faults are registered."""

ROWS = {
    "damage": (
        "Damaged files and bombs",
        "A truncated or bit-flipped file, a header that promises more than the file or the limit "
        "holds, a gzip or PNG bomb: refused, named, nothing is written.",
    ),
    "values": (
        "Values that are not numbers",
        "NaN or infinity is replaced with a warning; a constant or empty image and an axis of "
        "length zero are refused. What is written is always finite.",
    ),
    "kinds": (
        "Images that are not one real volume",
        "4D is refused, unless `--volume N` chooses; RGB and complex numbers are refused. Trailing "
        "axes of length 1 are dropped.",
    ),
    "geometry": (
        "Odd geometry",
        "One axial slice, odd sizes, thick slices, any of the 48 orientations, sheared and oblique "
        "affines are translated: same shape, bit-identical affine. One coronal or sagittal slice "
        "is refused.",
    ),
    "orientation": (
        "Orientation",
        "If qform and sform differ, the sform counts, with a warning; if both are zero, the scan "
        "is refused without `--assume`.",
    ),
    "numbers": (
        "Number types and intensity scales",
        "int16, uint16 and extreme scales do not wrap around; background zero stays zero.",
    ),
    "dicom": (
        "DICOM",
        "A missing or duplicate slice is named; a gap is refused unless `--allow-gaps`; of several "
        "series one is chosen by contrast or `--series`; compressed and enhanced files are "
        "decoded, or clearly unsupported.",
    ),
    "contrast": (
        "Nothing to synthesise",
        "A scan that is synthetic already, or of the wanted contrast, is refused without "
        "`--force`.",
    ),
    "unknown": (
        "Scans that the model does not know",
        "By the look of the image, every scan is usual, unusual (translated, with the reason) or "
        "refused without `--force`.",
    ),
    "whole": (
        "Full disks, kills, two writers",
        "An old output stays complete, a new one is complete or absent. Results are written to a "
        "temporary file in the same folder, flushed to disk, reopened and checked, then renamed; "
        "temporary files are removed.",
    ),
    "stopped": (
        "SIGTERM or Ctrl-C in training",
        "A checkpoint is written and `--resume` continues exactly: weights, optimisers, schedules, "
        "pools, random states.",
    ),
    "bundle": (
        "A bundle from elsewhere",
        "safetensors and JSON only; checksums are verified; nothing is ever unpickled.",
    ),
    "names": (
        "Names of patients",
        "Never in logs, file names, sidecars or reports.",
    ),
    "batch": (
        "A batch with one bad scan",
        "The others finish, the exit code is 1, and the report lists it.",
    ),
    "nothing": ("No network, no GPU", "Everything works without them."),
}
"""The rows of the safety table: heading, what happens."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a command line: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """What a user reads, in one line: errors and warnings, or else the answer."""
        lines = [line for line in self.err.splitlines() if line.startswith(("error", "warning"))]
        return " ".join(lines) or self.out.strip()


@dataclass(frozen=True)
class Fault:
    """One fault; `run` brings it about."""

    row: str
    run: Callable[[Workshop], Outcome]

    @property
    def name(self) -> str:
        """The function's."""
        return self.run.__name__

    @property
    def what(self) -> str:
        """Its docstring, in one line."""
        return " ".join((self.run.__doc__ or "").split()).removesuffix(".")


FAULTS: list[Fault] = []
LAWS: list[tuple[str, str, str]] = []
"""Row, what holds, and the test that shows it (`file::name`)."""


def fault(row: str) -> Callable[[Callable[[Workshop], Outcome]], Callable[[Workshop], Outcome]]:
    """Put a fault into a row of the table."""

    def keep(run: Callable[[Workshop], Outcome]) -> Callable[[Workshop], Outcome]:
        FAULTS.append(Fault(row, run))
        return run

    return keep


def law(row: str, what: str, test: str) -> None:
    """Put a property into a row of the table."""
    LAWS.append((row, what, test))


def everything() -> list[Fault]:
    """All faults, in the order of the rows."""
    for module in MODULES:
        importlib.import_module(f"tests.faults.{module}")
    return sorted(FAULTS, key=lambda fault: list(ROWS).index(fault.row))


@dataclass(frozen=True)
class Workshop:
    """An empty folder, which is the working directory, and the command line."""

    folder: Path

    def run(self, *arguments: object) -> Outcome:
        """Run a command line in this process."""
        out, err = io.StringIO(), io.StringIO()
        code = 0
        with _as_it_was(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.main([str(argument) for argument in arguments])
            except SystemExit as end:
                code = int(end.code or 0)
        return Outcome(code, out.getvalue(), err.getvalue())

    def translate(self, image: object, *more: object, out: str = "out.nii.gz") -> Outcome:
        """Translate with a small model on the CPU."""
        return self.run("translate", "-m", MODEL, "-i", image, "-o", out, "--device", "cpu", *more)

    def refused(self, *arguments: object, code: int = 2) -> Outcome:
        """Run what must be refused in one line, with nothing written."""
        before = self.tree()
        outcome = self.run(*arguments)
        assert outcome.code == code, outcome
        assert outcome.err.count("\n") == outcome.err.count("error: ") == 1, outcome.err
        assert self.tree() == before, "something was written"
        return outcome

    def refuses(self, image: object, *more: object, out: str = "out.nii.gz") -> Outcome:
        """Translate what must be refused."""
        return self.refused(
            *("translate", "-m", MODEL, "-i", image, "-o", out, "--device", "cpu"), *more
        )

    def tree(self) -> dict[str, bytes]:
        """Every file and its bytes."""
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }


@contextlib.contextmanager
def _as_it_was() -> Iterator[None]:
    """Undo what the command line does to its process."""
    logger = logging.getLogger("mrbridge")
    before = (logger.handlers, logger.propagate, logger.level)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            yield
    finally:
        logger.handlers, logger.propagate, level = before
        logger.setLevel(level)
        signal.signal(signal.SIGTERM, handler)
        console.verbosity = console.Verbosity()


def bring_about(found: Fault, folder: Path) -> Outcome:
    """Run a fault in a folder of its own."""
    before = Path.cwd()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    try:
        return found.run(Workshop(folder))
    finally:
        os.chdir(before)


def line(found: Fault, outcome: Outcome) -> str:
    """The line of a fault on the page."""
    message = re.sub(r"\s+", " ", outcome.message).replace("|", "\\|")
    message = re.sub(r"Try '.* (\w+ -h)'", r"Try 'mrbridge \1'", message)  # not as tests run it
    test = f"`test_faults.py::test_fault[{found.name}]`"
    return f"| {found.what} | {outcome.code} | `{message}` | {test} |"


def page(lines: dict[str, str]) -> str:
    """The page, of the lines of all faults by name."""
    parts = [
        "# What can go wrong, and what mrbridge reports",
        "",
        "Written by `python -m tests.faults.write`, which causes every fault; a test compares. "
        "Exit codes: 0 done (a warning says what was repaired), 1 some scans failed and the others "
        "are done, 2 refused, 3 stopped and resumable; with `--json`, an error is "
        '`{"error": …, "exit_code": …}` if there is no other result. Tests are in `tests/faults` '
        "unless a path is shown. Rows without a message are properties.",
    ]
    found = everything()
    for row, (title, what) in ROWS.items():
        of_row = [lines[fault.name] for fault in found if fault.row == row]
        of_row += [f"| {text} | | | `{test}` |" for at, text, test in LAWS if at == row]
        if of_row:
            head = ["| fault | exit code | message | test |", "|---|---|---|---|"]
            parts += ["", f"## {title}", "", what, "", *head, *of_row]
    return "\n".join(parts + section()) + "\n"
