"""How a running supervisor makes anew what somebody has removed: by it, commands find the site."""

from __future__ import annotations

import os

from paste_wspbus.process.registering import BOUND_AGAIN, Registering
from paste_wspbus.process.renewal import Renewal
from paste_wspbus.streams import fill_numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.bus import Bus
    from paste_wspbus.control.register import Registration
    from paste_wspbus.control.server import Control
    from paste_wspbus.process.process import Process


def repair(process: Process, bus: Bus) -> None:
    """Make the control socket and the entry again if they are gone: at a graceful restart.

    One process does it before the trial, because it may keep its old code.
    """
    fill_numbers()  # a request may have closed them
    registering, entry = Registering(process), process.entry
    is_described = entry is None or _is_there(entry.path)
    if entry is not None and _has_lost_its_lock(entry):
        entry.forget()
        process.entry = None
        entry, is_described = registering.register(), False
    path, before = registering.control_path(), process.control
    if path is not None and (before is None or has_lost_its_file(before)):
        control = before or registering.control_at(path)
        control.path = path
        if registering.listen(control, shared=True, must=False):
            process.notes.append(BOUND_AGAIN.format(path))
            is_described = False  # a deployment may have changed a link in the path
            if before is None:
                registering.serve(control, bus)
    if entry is not None and process.control is not None and not is_described:
        registering.describe(entry, process.control.path)
    for note in process.notes:
        bus.log(note, 30)
    process.notes.clear()


def note_refusal(process: Process, reason: str) -> None:
    """Note that a restart of a process was refused, which keeps its old code."""
    if process.answers is None:
        return
    bus = process.answers.bus
    process.renewal = Renewal(getattr(bus, 'asked_by', None))
    process.renewal.ends(None, reason)
    bus.asked_by = None
    if bus.try_restart is None:  # else the trial has done it
        repair(process, bus)


def has_lost_its_file(control: Control) -> bool:
    """Whether no command can reach a control socket: its file is gone, or another one is there."""
    return control.sock is not None and _is_lost(control.place, control.identity)


def _has_lost_its_lock(entry: Registration) -> bool:
    status = os.fstat(entry.fd)
    return _is_lost(entry.lock, (status.st_dev, status.st_ino))


def _is_there(path: str) -> bool:
    """Whether a file is there; True if this process may not look."""
    may_look = os.access(os.path.dirname(path), os.X_OK)
    return os.path.lexists(path) or not may_look


def _is_lost(path: str, identity: tuple[int, int] | None) -> bool:
    """Whether a file that this process has made is not at its path any more.

    :param identity: its device and inode.
    """
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False  # this process may have lost the right to look
    return (status.st_dev, status.st_ino) != identity
