"""The entry point of ``wspserve`` and ``python -m paste_wspbus``, which own the process."""

import sys

if __name__ == '__main__' and not sys.flags.safe_path:
    # `python -m` searches the working folder first: a signal.py of the site is not the one
    # that is meant. `wspserve` searches the folder of the site last, too.
    sys.path.append(sys.path.pop(0))

import atexit
import errno
import gc
import os
import signal


def main() -> int:
    """Run the command.

    :returns: its exit code (`paste_wspbus.command.main.main`).
    """
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _leave)
        atexit.register(_ignore)  # the first handler: it is called last
        return _run()
    except Exception as error:
        if getattr(error, 'errno', None) in (errno.EMFILE, errno.ENFILE):
            return _complain('too many open files: raise the limit (ulimit -n)')
        from paste_wspbus.command.in_the_way import find

        if (path := find(error)) is not None:
            problem = 'is in the way of a module that this program needs: rename it'
            return _complain(f'{path} {problem}')
        raise


def _run() -> int:
    # Imports make no garbage, and a search for it takes as long as the import of all
    # modules of this package. The objects of the site are collected as usual.
    gc.disable()
    if hasattr(os, 'geteuid') and os.geteuid() == 0:
        # Do this before any other import.
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


def _complain(problem: str) -> int:
    """Print why modules cannot be imported."""
    atexit.unregister(_ignore)  # it would import more of them
    sys.stderr.write(f'wspserve: {problem}\n')
    return 4 if 'status' in sys.argv else 1  # exits.IS_UNKNOWN, exits.FAILED


if __name__ == '__main__':
    sys.exit(main())
