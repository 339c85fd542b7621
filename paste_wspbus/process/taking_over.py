"""How a new process stops the running site, and takes over everything that it holds."""

from __future__ import annotations

import contextlib
import time

from paste_wspbus.process.handing_over import receive
from paste_wspbus.process.inheritance import Inheritance

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.errors import WSPBusError
    from paste_wspbus.unix.pid_lock import PIDLock
    from paste_wspbus.unix.users import Identity

#: Seconds that a site has to answer before it is stopped by signals.
ANSWER = 2.0

#: Seconds that a process has to end when it has handed everything over.
ENDING = 10.0


def take_over(
    lock: PIDLock, identity: Identity | None, awaits_the_end: bool = False
) -> Inheritance | WSPBusError | None:
    """Stop the running site, and take over everything that it holds.

    :param lock: the lock of the PID file that the running site holds.
    :param identity: the user to which this process will change; None if it does not.
    :param awaits_the_end: whether to wait for the end of its process, which may hold a
        lock until then.
    :returns: what the site hands over; if it ends without that, the result of
        `PIDLock.acquire`.
    :raises AlreadyRunning: if another site holds the PID file afterwards.
    """
    from paste_wspbus.control.stop import patience, stop_site
    from paste_wspbus.unix.processes import OtherProcess

    status = _status_of(lock)
    if status:
        _import_what_follows()
        old = OtherProcess(pid) if (pid := lock.read()) else None
        came = _ask_for_all(lock, patience(status), identity)
        if old is not None:
            # If it has no free descriptor, it hands over no sockets, and holds them
            # until it ends.
            if came is not None and (awaits_the_end or not came.sockets):
                old.is_gone_within(ENDING)
            old.close()
        if came is not None:
            return came
    stop_site(lock)
    return lock.acquire()


def _import_what_follows() -> None:
    """Import what this process needs from here until it serves.

    When the running site has handed its sockets over, its clients wait for this process.
    """
    from paste_wspbus.bus import culprits, lifespan  # noqa: F401
    from paste_wspbus.ini import listed  # noqa: F401
    from paste_wspbus.plugins import pidfile  # noqa: F401
    from paste_wspbus.process import idle, load, registering  # noqa: F401


def _ask_for_all(
    lock: PIDLock, seconds: float, identity: Identity | None
) -> Inheritance | None:
    """Return what the running site hands over when it has stopped.

    If an attacker controls the site, it can send any descriptor that it can open. So root
    receives them as the user of the site. The PID file counts only if it is the file that
    this process would open itself. `Opening` checks the sockets.

    :returns: None if the site refuses, has ended, or hands over something else.
    """
    from paste_wspbus.control.client import NoAnswer, connect, send
    from paste_wspbus.unix.pid_lock import PIDFileError

    acting = identity.borrowed() if identity is not None else contextlib.nullcontext()
    try:
        with connect(lock.control, seconds) as sock, acting:
            send(sock, 'replace')
            came = receive(sock)
    except (NoAnswer, OSError):
        return None
    if came is None:
        return None
    try:
        if came.pid_file is not None:
            lock.receive(came.pid_file)
            return came
    except PIDFileError:
        pass
    came.forget()
    return None


def _status_of(lock: PIDLock) -> dict[str, Any]:
    """Return the status that the site reports; {} if it does not answer for a while.

    A site that has just taken over may not listen yet.
    """
    from paste_wspbus.control.client import NoAnswer, ask

    until = time.monotonic() + ANSWER
    while True:
        with contextlib.suppress(NoAnswer):
            return ask(lock.control, 'status')
        if time.monotonic() > until:
            return {}
        time.sleep(0.02)
