"""Every fault of the table has the message on the page, and every row has one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.faults.promises import PROMISES
from tests.faults.table import LAWS, PAGE, ROOT, ROWS, Fault, bring_about, everything, line, page

FAULTS = everything()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault(fault: Fault, tmp_path: Path) -> None:
    written = line(fault, bring_about(fault, tmp_path / fault.name))
    assert written in PAGE.read_text(encoding="utf-8").splitlines(), (
        f"docs/reference/faults.md is not up to date (python -m tests.faults.write): {written}"
    )


def test_the_page_is_what_the_generator_writes() -> None:
    text = PAGE.read_text(encoding="utf-8")
    lines = {
        found[1]: row
        for row in text.splitlines()
        if (found := re.search(r"`test_faults\.py::test_fault\[(\w+)\]` \|$", row))
    }
    assert lines.keys() == {fault.name for fault in FAULTS}
    assert page(lines) == text


def test_every_row_has_a_test() -> None:
    rows = {fault.row for fault in FAULTS} | {row for row, _, _ in LAWS}
    assert rows == ROWS.keys()


def test_names_are_their_own() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert all(fault.what for fault in FAULTS)


PROMISED = {f"tests/{test}" for _, tests in PROMISES for test in tests}


@pytest.mark.parametrize("test", sorted({test for _, _, test in LAWS} | PROMISED))
def test_the_tests_that_are_named_exist(test: str) -> None:
    file, *names = test.split("::")
    assert (ROOT / file).exists(), test
    text = (ROOT / file).read_text(encoding="utf-8") if names else ""
    for name in names:
        assert re.search(rf"(def|class) {name}\b", text), test
