"""Remote files: URLs that fsspec knows, such as `s3://bucket/bids`, as local paths.

`localise` turns a URL into the path of its mirror in the temporary folder. It lists the names at
the URL and writes a stub for each: a line that says so, with the size. `fetch` replaces stubs by
the content when it is needed, `release` turns it into stubs again, and `upload` sends what was
written. All of them do nothing for local paths. No format takes a stub for a scan.
"""

from __future__ import annotations

import atexit
import errno
import logging
import os
import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from mrbridge.errors import InputError, MrbridgeError, OutputError, SettingsError
from mrbridge.io.pointers import not_fetched
from mrbridge.io.temporary import sweep, temporary_name
from mrbridge.quiet import Shared, at_level
from mrbridge.urls import MIRROR_SUFFIX, is_url, masked, parts, url_of

Item = TypeVar("Item")
Result = TypeVar("Result")

_STUB = b"mrbridge: a stub, not fetched yet; bytes: "
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}  # an upload is all or nothing
_CLOUD_EXTRA = {"s3", "s3a", "gs", "gcs"}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

_mirrors: list[tuple[int, Path]] = []  # by process
