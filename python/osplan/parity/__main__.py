"""`python -m osplan.parity`."""

import sys

from osplan.parity.run import main

if __name__ == "__main__":
    sys.exit(main())
