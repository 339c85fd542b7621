"""The entry point of ``wspserve`` and ``python -m paste_wspbus``, which own the process."""

import atexit
import errno
import gc
import os
import signal
import sys


def main() -> int:
    """Run the command.

    :returns: its exit code (`paste_wspbus.command.main.main`).
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)
    atexit.register(_ignore)  # the first handler: it is called last
    try:
        return _run()
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        return _complain()


def _run() -> int:
    # Imports make no garbage, and a search for it takes as long as the import of all
    # modules of this package. The objects of the site are collected as usual.
    gc.disable()
    if hasattr(os, 'geteuid') and os.geteuid() == 0:
        # Do this before any other import: `python -m` searches the working folder first.
        from paste_wspbus.unix.importing import hold_back

        hold_back()
    from paste_wspbus.command.leaving import finish
    from paste_wspbus.command.main import main

    gc.freeze()
    gc.enable()
    return finish(main(owns_process=True))


def _leave(signum: int, frame: object) -> None:
    """End the process at once: nothing is open yet."""
    if signum == signal.SIGINT:
        os.write(2, b'Interrupted.\n')
    os._exit(128 + signum)


def _ignore() -> None:
    from paste_wspbus.process.early_signals import ignore

    ignore()


def _complain() -> int:
    """Print that the process may not open as many files as Python needs for its modules."""
    sys.stderr.write('wspserve: too many open files: raise the limit (ulimit -n)\n')
    return 1


if __name__ == '__main__':
    sys.exit(main())
