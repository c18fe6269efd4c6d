"""The documentation is true: links lead somewhere, options exist, marked commands run."""

from __future__ import annotations

import itertools
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.docs import options_page
from tests.studies import write_series

from mrbridge import cli
from mrbridge.io import read

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob(".github/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
MARKED = re.compile(
    r"<!-- (run|demo|tests|file [\w.]+|not run: [^\n]+) -->\n+```(\w*)\n(.*?)^```$", re.M | re.S
)
"""Blocks that tests run (`demo` and `tests`: .ci/run), files that they need, and others."""
ids = [str(page.relative_to(ROOT)) for page in PAGES]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() and target.parent == ROOT / "docs" / "tutorials":
            target = target.with_suffix(".py")  # from which the page is made
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_files_and_modules_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:src|tests|docs|benchmarks)/[\w./-]+)`?", text):
        assert (ROOT / name).exists(), name
    for module in re.findall(r"python -m ((?:benchmarks|tests)[\w.]+)", text):
        assert find_spec(module), module


def commands(page: Path) -> list[list[str]]:
    """Every `mrbridge …` line of the page's code blocks, split into words."""
    blocks = [text for _, text in BLOCK.findall(page.read_text(encoding="utf-8"))]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    words = (shlex.split(line, comments=True) for line in lines if line.startswith("mrbridge "))
    return [list(itertools.takewhile(lambda word: word not in (">", "|"), w[1:])) for w in words]


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_commands_of_examples_are_understood(
    page: Path, run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verbs, options, values and settings; only what the verb would do is left out."""
    for one in cli.VERBS + cli.DOWNLOADS + cli.STUDY:
        monkeypatch.setattr(one, "function", wraps(one.function)(lambda *_: None))
    for words in commands(page):
        if words[0] != "VERB":
            code, _, err = run(*(word.replace("s3://", "") for word in words))  # without network
            assert code == 0, (words, err)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_snippets_are_valid(page: Path) -> None:
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            compile(text, page.name, "exec")
        if language == "json":
            json.loads(text)


def shell(script: str, folder: Path) -> None:
    """Run a script with the commands of this environment."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    }
    done = subprocess.run(
        ["bash", "-euxc", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def marked(page: Path) -> list[tuple[str, str, str]]:
    """Mark, language and text of the marked blocks of a page."""
    return MARKED.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))])
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    if page == options_page.PAGE or page.parent.name == "decisions":
        return  # derived from the settings; history
    known = [text for _, _, text in marked(page)]
    for _, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        assert text in known, f"mark this block <!-- run --> or <!-- not run: why -->:\n{text}"
    for mark, *_ in marked(page):
        for name in re.findall(r"(?:tests|examples)/[\w/.]*\w", mark):
            assert (ROOT / name).exists(), name


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated dataset `bids`, and scans of it by the names that the pages use."""
    folder = tmp_path_factory.mktemp("pages")
    shell(
        "mrbridge phantom -o bids --subjects 3 --set spacing_mm=4\n"
        "ln -s bids SRC\n"
        "cp bids/sub-*1/anat/*_T1w.nii.gz T1w.nii.gz\n"
        "cp bids/sub-*1/anat/*_T2w.nii.gz real_T2w.nii.gz\n"
        "cp bids/derivatives/phantom/sub-*1/anat/*_label-lesion_mask.nii.gz lesions.nii.gz",
        folder,
    )
    return folder


@pytest.fixture(scope="session")
def four_contrasts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with four contrasts."""
    folder = tmp_path_factory.mktemp("contrasts")
    shell(
        "mrbridge phantom -o bids --subjects 3 --set spacing_mm=4 --contrasts T1w T2w PDw FLAIR\n"
        "cp bids/sub-*1/anat/*_T1w.nii.gz T1w.nii.gz\n"
        "cp bids/sub-*1/anat/*_FLAIR.nii.gz FLAIR.nii.gz\n"
        "cp FLAIR.nii.gz sub-01_FLAIR.nii.gz\n"
        "cp FLAIR.nii.gz second.nii.gz\n"
        "cp bids/sub-*1/anat/*_PDw.nii.gz third.nii.gz",
        folder,
    )
    return folder


@pytest.fixture(scope="session")
def trained(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store and a run, of small networks."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "scans").mkdir()
    shutil.copy(inputs / "T1w.nii.gz", folder / "scans")
    shell(
        f"mrbridge prepare {inputs}/bids -o store --set standard.spacing_mm=4\n"
        "mrbridge train store -o run --preset unet --set networks.image_size=64 --set epochs=1 "
        "--set networks.generator.levels=4 --set networks.generator.features=8 "
        "--set steps_per_epoch=2 --set validation_slices=2",
        folder,
    )
    return folder


def shortened(block: str) -> str:
    """A block with trainings of seconds, and few of them."""
    block = re.sub(r"^pip install .*\n", "", block, flags=re.M)  # of extras, which are installed
    block = re.sub(
        r"mrbridge train (\w+) (?!.*minutes=)", r"mrbridge train \1 --set minutes=1 ", block
    )
    block = re.sub(r"(minutes[= ])\d+", r"\g<1>0.1", block)
    block = re.sub(r"(trials[= ])\d+", r"\g<1>2", block)
    block = re.sub(r"(--seeds )\d+", r"\g<1>1", block)
    return re.sub(r"--workers \d+", "--workers 2", block)


@pytest.mark.nightly
@pytest.mark.parametrize(
    "page", [page for page in PAGES if "<!-- run -->" in page.read_text(encoding="utf-8")],
    ids=lambda page: page.name,
)  # fmt: skip
def test_marked_commands_run(
    page: Path, inputs: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Blocks after `<!-- run -->`, in order, in a folder with a simulated dataset `bids`."""
    text = "".join(block for mark, _, block in marked(page) if mark == "run")
    folders = [inputs]
    if "FLAIR" in text:
        folders = [request.getfixturevalue("four_contrasts")]
    if re.search(r"\bstore\b|-m run", text) and "-o store" not in text:
        folders.append(request.getfixturevalue("trained"))
    for folder in folders:
        shutil.copytree(folder, tmp_path, symlinks=True, dirs_exist_ok=True)
    if "mrbridge_example" in page.read_text(encoding="utf-8"):
        shutil.copy(ROOT / "examples/extension/mrbridge_example.py", tmp_path)
    if "-i study" in text:
        write_series(tmp_path / "study", read(tmp_path / "T1w.nii.gz"))
    for mark, _, block in marked(page):
        if mark.startswith("file "):
            (tmp_path / mark.split()[1]).write_text(block, encoding="utf-8")
    for mark, language, block in marked(page):
        block = shortened(block)
        if language == "python":
            (tmp_path / "snippet.py").write_text(block, encoding="utf-8")
            block = "python snippet.py"
        if mark == "run":
            shell(block, tmp_path)


def test_the_page_of_options_is_what_the_settings_say() -> None:
    assert options_page.PAGE.read_text(encoding="utf-8") == options_page.page(), (
        "run python -m tests.docs.options_page"
    )


def test_the_language_check_reads_text_but_not_code_blocks(tmp_path: Path) -> None:
    script = ROOT / ".ci" / "phrases.py"
    check = runpy.run_path(str(script))
    page = tmp_path / "page.md"
    word = "to" + "ld"
    page.write_text(f"It is {word}.\nThere is no scan.\n```\n{word}\n```\n")
    assert [line[:2] for line in check["occurrences"](page)] == [(1, word)]
