"""The names of signals, as the .ini and programs write them."""

from __future__ import annotations

import signal

from paste_wspbus.errors import SettingError


class BadSignal(SettingError, ValueError):
    """A signal does not exist, or cannot be caught. ``name`` is as the caller wrote it."""

    def __init__(self, name: str | int, problem: str) -> None:
        super().__init__(f'signal.{name}', problem)
        self.name = name


def signal_name(signum: str | int) -> str:
    """Return the name of a signal that a program may catch, such as 'SIGUSR1'.

    :param signum: its number or its name, in upper or lower case, with 'SIG' or without.
    :raises BadSignal: (a ValueError) if there is no such signal, or it cannot be caught
        (signal(7)).
    """
    name = str(signum).upper()
    name = name if name.startswith('SIG') else f'SIG{name}'
    try:
        known = (
            signal.Signals(signum) if isinstance(signum, int) else signal.Signals[name]
        )
    except (KeyError, ValueError):
        raise BadSignal(signum, 'there is no such signal') from None
    if known.name in ('SIGKILL', 'SIGSTOP'):
        raise BadSignal(signum, f'{known.name} cannot be caught')
    return known.name  # for SIGCLD, this is SIGCHLD
