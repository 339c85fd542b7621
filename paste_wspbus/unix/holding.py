"""Signals that are held back while a process is not ready for them (sigprocmask(2))."""

from __future__ import annotations

import contextlib
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

#: The signals that an operator, a terminal or a launcher sends to a site.
SIGNALS = [
    getattr(signal, name)
    for name in ('SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2')
    if hasattr(signal, name)
]


def hold(held: bool) -> None:
    """Block signals, or unblock them; blocked signals wait, also during an execv(2).

    A forked child inherits the mask, but not the signals that wait.
    """
    if hasattr(signal, 'pthread_sigmask'):
        how = signal.SIG_BLOCK if held else signal.SIG_UNBLOCK
        signal.pthread_sigmask(how, SIGNALS)


@contextlib.contextmanager
def holding() -> Generator[None]:
    """Block signals inside the ``with`` block; afterwards the mask is as it was before."""
    if not hasattr(signal, 'pthread_sigmask'):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    # When the second call blocks the signals, Python may run the handler of a signal that
    # has come before. This handler may raise, so the call stands inside the try block.
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
