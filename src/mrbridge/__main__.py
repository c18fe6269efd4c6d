"""`python -m mrbridge`, and so `torchrun … -m mrbridge`: the command line."""

import sys
from pathlib import Path

import mrbridge

# `-m` puts the working directory first: it may hold a dataset with a `numpy.py` in it.
if not sys.flags.safe_path and Path(sys.path[0]) != Path(mrbridge.__file__).parents[1]:
    del sys.path[0]

from mrbridge.start import main

if __name__ == "__main__":
    main()
