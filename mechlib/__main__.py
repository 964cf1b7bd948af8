"""`python -m mechlib`: the same as the command `mechlib`."""

import sys

from mechlib.cli import main

sys.exit(main())
