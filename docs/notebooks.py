"""The tutorials as notebooks: executes them, and adds them to the site.

    python docs/notebooks.py [NAME …]     # execute the tutorials, or those named, that have changed

A tutorial is a Python file in jupytext's percent format. Executed notebooks are in
`build/tutorials`; how long they took goes into the table of `docs/tutorials/index.md`. MkDocs
imports this file as a hook and adds a page and a notebook to download for every tutorial: with its
outputs, if it was executed since it was changed.
"""  # fmt: skip

from __future__ import annotations

import base64
import hashlib
import os
import re
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "docs" / "tutorials").glob("[0-9]*.py"))
EXECUTED = ROOT / "build" / "tutorials"
INDEX = ROOT / "docs" / "tutorials" / "index.md"

MOST_CPU_SECONDS = 600
"""Of a tutorial: five minutes on two cores; other programs do not count."""

SHIM = "https://unpkg.com/iframe-worker/shim"  # what the theme loads for search in opened files


def source_hash(source: Path) -> str:
    """The SHA-256 of a tutorial's source."""
    return hashlib.sha256(source.read_bytes()).hexdigest()


def executed(source: Path) -> Any | None:
    """The notebook of a tutorial with its outputs; None if it must be executed again."""
    path = EXECUTED / f"{source.stem}.ipynb"
    if not path.exists():
        return None
    notebook = nbformat.read(path, as_version=4)
    return notebook if notebook.metadata["mrbridge"]["source"] == source_hash(source) else None


def run(notebook: Any) -> None:
    """Run a notebook in an empty folder on two threads.

    Raises:
        CellExecutionError: a cell fails.
    """
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ |= {"OMP_NUM_THREADS": "2", "COLUMNS": "100", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=None, kernel_name="python3")
        client.execute(cwd=folder)


def execute(source: Path) -> Any:
    """Run a tutorial, and write its notebook.

    Raises:
        CellExecutionError: a cell fails.
        RuntimeError: it takes too long.
    """
    notebook, version = jupytext.read(source), source_hash(source)
    started, used = time.monotonic(), _cpu_seconds()
    run(notebook)
    notebook.metadata["mrbridge"] = {
        "source": version,
        "seconds": round(time.monotonic() - started),
        "cpu_seconds": round(_cpu_seconds() - used),
    }
    if notebook.metadata["mrbridge"]["cpu_seconds"] > MOST_CPU_SECONDS:
        raise RuntimeError(f"{source.name} takes more than {MOST_CPU_SECONDS} s of processor time")
    EXECUTED.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, EXECUTED / f"{source.stem}.ipynb")
    return notebook


def write_times() -> None:
    """Enter the times of what was executed here, and is unchanged, into the table of the index."""
    lines = INDEX.read_text(encoding="utf-8").splitlines()
    for source in SOURCES:
        notebook = executed(source)
        for number, line in enumerate(lines):
            if notebook and line.startswith("|") and f"({source.stem}.md)" in line:
                facts = notebook.metadata["mrbridge"]
                cells = line.split("|")[:-3] + [
                    f" {facts[key]} " for key in ("cpu_seconds", "seconds")
                ]
                lines[number] = "|".join([*cells, ""])
    INDEX.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cpu_seconds() -> float:
    """Processor time of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def page(notebook: Any, name: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its figures by file name."""
    parts: list[str] = []
    figures: dict[str, bytes] = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(_fenced(cell.source, "python"))
        text = ""
        for output in cell.outputs:
            data = output.get("data", {})
            if output.output_type == "stream":
                text += output.text
            elif "image/png" in data:
                figure = f"{name}-{len(figures) + 1}.png"
                figures[figure] = base64.b64decode(data["image/png"])
                parts += [_fenced(text, "text"), f"![]({figure})"]
                text = ""
            elif "text/html" in data:
                table = re.sub(r"<style.*?</style>", "", data["text/html"], flags=re.S)
                parts += [_fenced(text, "text"), re.sub(r"\n\s*", "\n", table)]
                text = ""
            else:
                text += data.get("text/plain", "") + "\n"
        parts.append(_fenced(text, "text"))
    title, _, rest = "\n\n".join(filter(None, parts)).partition("\n")
    facts = notebook.metadata.get("mrbridge")
    how = (
        f"with its outputs ({facts['cpu_seconds']} s of processor time)"
        if facts
        else "not yet executed: `nox -s docs` does it"
    )
    note = f"*[Download this tutorial as a notebook]({name}.ipynb), {how}.*"
    return f"{title}\n\n{note}\n\n{rest.lstrip()}", figures


def _fenced(text: str, language: str) -> str:
    return f"````{language}\n{text.rstrip()}\n````" if text.strip() else ""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """MkDocs: tutorials, decisions, and pages that the navigation does not list yet."""
    listed = str(config.nav)
    for section in config.nav:
        for title, pages in section.items() if isinstance(section, dict) else ():
            found = sorted((ROOT / "docs" / title.lower()).glob("*.md"))
            names = [f"{title.lower()}/{one.name}" for one in found]
            pages += [name for name in names if name not in listed]
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    tutorials = ["index", *(one.stem for one in SOURCES)]
    config.nav.insert(1, {"Tutorials": [f"tutorials/{one}.md" for one in tutorials]})
    config.nav.append({"Decisions": [f"decisions/{one.name}" for one in decisions]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """MkDocs: add page, figures and notebook of every tutorial."""
    for source in SOURCES:
        notebook = executed(source) or jupytext.read(source)
        text, figures = page(notebook, source.stem)
        contents: dict[str, str | bytes] = {
            f"{source.stem}.md": text,
            f"{source.stem}.ipynb": nbformat.writes(notebook),
            **figures,
        }
        for name, content in contents.items():
            files.append(File.generated(config, f"tutorials/{name}", content=content))
    return files


def on_post_page(output: str, page: Any, config: MkDocsConfig) -> str:
    """MkDocs: nothing is loaded from elsewhere."""
    base = "../" * page.url.count("/")
    return output.replace(SHIM, f"{base}assets/iframe-worker.js")


def on_post_template(output: str, template_name: str, config: MkDocsConfig) -> str:
    """MkDocs: the same for 404.html."""
    return output.replace(SHIM, "assets/iframe-worker.js")


if __name__ == "__main__":
    for one in SOURCES:
        if one.stem in sys.argv[1:] or (len(sys.argv) == 1 and executed(one) is None):
            print(one.stem, flush=True)
            facts = execute(one).metadata["mrbridge"]
            print(f"  {facts['seconds']} s, {facts['cpu_seconds']} s of processor time", flush=True)
    write_times()
