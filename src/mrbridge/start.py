"""Where both programs begin: they listen to signals before they import anything that takes time."""

from __future__ import annotations

from mrbridge import interruption


def main() -> None:
    """The program `mrbridge`."""
    interruption.listen()
    from mrbridge import cli

    cli.main()


def bids_main() -> None:
    """The program `mrbridge_bids`."""
    interruption.listen()
    from mrbridge import bids_app

    bids_app.main()
