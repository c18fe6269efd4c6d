"""Which image is it: one of the contrasts that mrbridge knows, something else, or not known.

One set of rules for names, BIDS entities and DICOM headers. `words` holds the vocabulary,
`of_path` applies it to files and folders, `of_series` (in `contrast.dicom`) to DICOM series, whose
timing decides first.
"""

from mrbridge.io.contrast.identity import Identity, something_else
from mrbridge.io.contrast.path import guess_contrast, of_bids_name, of_path
from mrbridge.io.contrast.words import of_text

__all__ = ["Identity", "guess_contrast", "of_bids_name", "of_path", "of_text", "something_else"]
