"""Imported by processes that work side by side, before any library that computes: one thread each.

With as many processes as cores, more threads would only queue. Libraries read this when they are
imported, so that a call would come too late.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
