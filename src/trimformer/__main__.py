import sys

from trimformer.cli.main import main

sys.exit(main())
