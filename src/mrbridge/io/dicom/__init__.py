"""DICOM series: find, distinguish, sort and read them; write derived series.

The input is a folder or a zip with several series and other files. Slices are sorted by position;
missing and duplicate slices and series that are not anatomical are named. What cannot be read is an
InputError, what cannot be written an OutputError.

Source: DICOM PS3, https://www.dicomstandard.org.
"""

from __future__ import annotations

from mrbridge.io.dicom.files import nameless
from mrbridge.io.dicom.read import read_series
from mrbridge.io.dicom.scans import choose_series
from mrbridge.io.dicom.series import Listing, Series, find_series
from mrbridge.io.dicom.write import PARAMETRIC_MAP, Origin, must_be_ours, write_series

__all__ = [
    "PARAMETRIC_MAP",
    "Listing",
    "Origin",
    "Series",
    "choose_series",
    "find_series",
    "must_be_ours",
    "nameless",
    "read_series",
    "write_series",
]
