"""Reports: self-contained HTML pages from the templates in `templates`."""

from mrbridge.reports.render import counted, render

__all__ = ["counted", "render"]
