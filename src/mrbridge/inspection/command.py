"""What `mrbridge inspect` does beyond listing headers: page and table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mrbridge.errors import InputError
from mrbridge.inspection.complete import write_complete
from mrbridge.inspection.fix import check_source, check_table, write_fixed
from mrbridge.inspection.inspect import check_report, inspect_images
from mrbridge.inspection.report import write_report
from mrbridge.page import counted
from mrbridge.scale import Workers

_NAMED = 5


def run(
    path: Path,
    out: Path | None,
    fix: Path | None,
    workers: Workers = 1,
    *,
    overwrite: bool = False,
) -> tuple[dict[str, Any], str]:
    """Inspect, and write what is wanted.

    Args:
        path: a data set or a store.
        out: the page; None writes none.
        fix: the table; None writes none.
        workers: processes, or the address of a Dask scheduler.
        overwrite: replace an earlier table; a page is replaced anyway.

    Returns:
        The result for JSON, and in words.

    Raises:
        InputError: nothing can be inspected, or a table cannot tell it.
        OutputError: page or table cannot be written there.
    """
    if out is not None:
        check_report(out)
    if fix is not None:
        check_table(fix, overwrite=overwrite)
        check_source(path)
    if path.is_file() and path.suffix.lower() not in (".csv", ".tsv", ".zip"):
        raise InputError(
            "is a single file: there is nothing to compare it with",
            path=path,
            remedy="Name its folder, or leave out -o and --fix.",
        )
    found = inspect_images(path, workers=workers)
    told, lines = found.told(), [found.words()]
    if fix is not None:
        left_out = write_fixed(found, fix, overwrite=overwrite)
        told["table"] = str(fix)
        told["left_out"] = [{"scan": name, "reason": reason} for name, reason in left_out]
        kept = len(found.facts) + len(found.failed) - len(left_out)
        named = "; ".join(f"{name} {reason}" for name, reason in left_out[:_NAMED])
        more = f"; and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
        lines.append(
            f"The table: {fix}: {counted(kept, 'scan')}"
            + (f", without {len(left_out)} ({named}{more})" if left_out else ", all of them")
        )
    if out is not None:
        write_report(found, out)
        complete = write_complete(found, out)
        told |= {"report": str(out), "complete": str(complete)}
        lines.append(f"The page: {out}; all of it: {complete}")
    memory = _peak_memory_mib()
    told["peak_memory_mib"] = memory
    tail = "" if memory is None else f", {memory} MiB of memory in the main process"
    lines.append(f"It took {found.seconds:.0f} s{tail}.")
    return told, "\n".join(lines)


def _peak_memory_mib() -> int | None:
    """The most memory that this process has had so far; None where nobody tells."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, else KiB
    return round(peak / 2**20 if sys.platform == "darwin" else peak / 2**10)
