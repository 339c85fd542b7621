"""``wspserve``, and ``python -m paste_wspbus``: the process is all ours."""

import gc
import sys


def main() -> int:
    """Run the command.

    :returns: its exit code (`paste_wspbus.serve.main`).
    """
    # Nothing that is made by importing is garbage: looking for some costs as
    # much as all of our own modules. What the site makes is looked at.
    gc.disable()
    from paste_wspbus.serve import limit_the_end, main

    gc.freeze()
    gc.enable()
    code = main()
    limit_the_end()
    return code


if __name__ == '__main__':
    sys.exit(main())
