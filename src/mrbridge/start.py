"""Where both programs begin: they listen to signals before they import anything that takes time."""

from __future__ import annotations

import os

from mrbridge import interruption


def _begin() -> None:
    interruption.listen()
    # Pydantic looks for plugins in all installed packages, which is a tenth of a quick command.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def main() -> None:
    """The program `mrbridge`."""
    _begin()
    from mrbridge import cli

    cli.main()


def bids_main() -> None:
    """The program `mrbridge_bids`."""
    _begin()
    from mrbridge import bids_app

    bids_app.main()
