"""`python -m runtime` is the `sansuan` command."""

import sys

from runtime.cli import main

sys.exit(main())
