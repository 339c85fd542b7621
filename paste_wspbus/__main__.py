"""``python -m paste_wspbus``: the same as ``wspserve``."""

import sys

from paste_wspbus.serve import main

if __name__ == '__main__':
    sys.exit(main())
