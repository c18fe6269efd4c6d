"""Templates of reports, and the texts of findings."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path

import pytest
from jinja2 import UndefinedError

import mrbridge
from mrbridge.io.ownership import is_ours
from mrbridge.reports import counted, mean_and_std, number, render, some, some_files

SOURCE = Path(mrbridge.__file__).parent
TEMPLATES = sorted((SOURCE / "reports" / "templates").glob("*.j2"))
FINDINGS = tomllib.loads((SOURCE / "inspection/findings.toml").read_text("utf-8"))


def test_a_page_is_recognised_as_our_own(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(render("base.html.j2"))
    assert is_ours(tmp_path / "page.html")


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_template_loads_anything_or_skips_escaping(path: Path) -> None:
    text = path.read_text("utf-8")
    if path.name == "view.html.j2":  # the viewer itself; what it shows is JSON without `<`
        for part in ("<script>", '<script type="application/json" id="layers">', "| safe"):
            text = text.replace(part, "")
    if path.name == "viewer.html.j2":  # the script is a file next to it
        text = text.replace('<script>\n{% include "viewer.js" %}\n</script>', "")
    assert not re.search(r"<script|https?://|<link|url\(|@import|\|\s*safe|autoescape", text)


def test_an_undefined_variable_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render("evaluation_notebook.html.j2")


def test_numbers() -> None:
    assert number(-1.25, 1) == "−1.2"
    assert number(math.inf, 2) == number(None, 2) == "∞"
    assert mean_and_std({"mean": 23.14, "std": 0.36}, 1) == "23.1 ± 0.4"
    assert mean_and_std({"mean": 23.14, "std": None}, 1) == "23.1"
    assert (counted(1, "case"), counted(2, "case")) == ("1 case", "2 cases")
    assert [counted(n, "file is", "files are") for n in (1, 0)] == ["1 file is", "0 files are"]
    assert [counted(n, "minute") for n in (1.0, 2.5)] == ["1 minute", "2.5 minutes"]


@pytest.mark.parametrize("key", FINDINGS)
def test_findings_are_complete(key: str) -> None:
    finding = FINDINGS[key]
    assert set(finding) == {"kind", "severity", "text", "remedy"}
    assert finding["severity"] in ("fault", "warning", "note")
    assert finding["text"].endswith(".")
    assert finding["remedy"].endswith(".")
    sources = [path.read_text("utf-8") for path in (SOURCE / "inspection").rglob("*.py")]
    known = "-duplicates-" if "-duplicates-" in key else f'"{key}'  # of all kinds and relations
    assert any(known in source for source in sources), "no check reports it"


def test_the_first_of_several_and_how_many_more() -> None:
    assert some("abc", 2) == "a, b and 1 more"
    assert some("abc", 3, "; ") == "a; b; c"
    assert some_files(["a", "b", "a"]) == "a, b (3 files)"
