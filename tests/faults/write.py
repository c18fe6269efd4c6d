"""Write docs/reference/faults.md: `python -m tests.faults.write`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.faults.table import PAGE, bring_about, everything, line, page


def main() -> None:
    """Cause every fault and write the page."""
    with tempfile.TemporaryDirectory() as folder:
        lines = {
            fault.name: line(fault, bring_about(fault, Path(folder) / fault.name))
            for fault in everything()
        }
    PAGE.write_text(page(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
