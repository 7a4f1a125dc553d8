"""Runs the command line as `python -m trimformer`."""

import sys

from trimformer.cli.main import main

sys.exit(main())
