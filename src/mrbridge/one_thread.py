"""Imported by processes that work side by side, before any library that computes: one thread each,
which sleeps while it waits.

With as many processes as cores, more threads would only queue. Libraries read this when they are
imported, so that a call would come too late.
"""

from __future__ import annotations

import os

from mrbridge.threads import share_the_machine

os.environ["OMP_NUM_THREADS"] = "1"
share_the_machine()
