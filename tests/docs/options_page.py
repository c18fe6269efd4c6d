"""Writes docs/reference/options.md from the settings of the verbs.

python -m tests.docs.options_page
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mrbridge.bids_app import bids_app
from mrbridge.cli import DOWNLOADS, STUDY, VERBS
from mrbridge.options import Verb, described, metavar, option_names
from mrbridge.settings import Option

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "options.md"

HEAD = """# Options and settings

Written by `python -m tests.docs.options_page` from the settings of the verbs; a test compares.

Options are on the command line. Settings are changed with `--set key=value`, or in the YAML file of
`--config`, where dotted keys are nested. If a setting is given several times, `--set` takes
precedence over its option, and the option over the file. `mrbridge info --schema VERB` prints the
JSON schema of both. Every verb also has `-q` (print only errors), `-v` (print more, and tracebacks
of errors), `--json` (print one JSON object as the last line) and `-h` (help).
"""


def cell(text: str) -> str:
    """Text in a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def limits(field) -> str:
    """The range of a number, such as `≥ 0, < 1`."""
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    values = [
        f"{sign} {getattr(one, name)}"
        for one in field.metadata
        for name, sign in signs.items()
        if hasattr(one, name)
    ]
    return f" ({', '.join(values)})" if values else ""


def row(name: str, field, default) -> str:
    """A line of a table: name, value, description."""
    value = "" if field.annotation is bool and name.startswith("`-") else f"`{metavar(field)}`"
    value = value.replace("|", "\\|")
    needed = " Required." if field.is_required() else ""
    return f"| {name} | {value}{limits(field)} | {cell(described(field, default))}{needed} |"


def option_row(name: str, field, default) -> str:
    """The line of an argument or option."""
    option = next((one for one in field.metadata if isinstance(one, Option)), Option())
    if option.argument:
        shown = "`" + str(option.metavar).replace("|", "\\|") + "`"
        value = row(shown, field, default).split(" | ", 2)
        return f"| {shown} |  | {value[2]}"
    return row(", ".join(f"`{one}`" for one in option_names(name, field)), field, default)


def table(head: str, rows: Iterable[str]) -> list[str]:
    """A table with three columns."""
    return [f"| {head} | value | description |", "|---|---|---|", *rows, ""]


def section(title: str, verb: Verb) -> list[str]:
    """The options and settings of a verb."""
    verb.complete()
    settings = dict(verb.settings())
    rows = [option_row(name, field, field.default) for name, field in verb.fields()]
    rows += [option_row(key, *settings[key]) for key in verb.option_keys()]
    lines = [f"## {title}", "", (verb.__doc__ or "").splitlines()[0], ""]
    lines += ["```", verb.example.replace("  (", "\n# ("), "```", "", *table("option", rows)]
    others = [row(f"`{key}`", *settings[key]) for key in settings if key not in verb.option_keys()]
    return lines + (["Further settings:", "", *table("key", others)] if others else [])


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for verb in VERBS + DOWNLOADS + STUDY:
        group = "download " if verb in DOWNLOADS else "study " if verb in STUDY else ""
        title = f"{group}{verb.__name__}"
        lines += section(title, verb)
    lines += section("mrbridge_bids", bids_app)
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
