"""``python -m blockzoo``."""

import sys

from blockzoo.cli import main

sys.exit(main())
