"""What a process leaves to its successor, or to its own next program."""

from __future__ import annotations

import os

from paste_wspbus.process.handing_over import send
from paste_wspbus.process.repairing import has_lost_its_file
from paste_wspbus.streams import fill_numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.control.server import Connection
    from paste_wspbus.process.succession import Succession


def leave_to(successor: Connection, succession: Succession) -> None:
    """Send everything to the process that has asked for it."""
    process = succession.process
    lock = None if process.lock is None else process.lock.copy()
    inheritance = succession.inheritance(lock)
    process.close_control()  # before the successor opens its own one there
    if process.ops is not None:
        process.ops.close()
    try:
        send(inheritance, successor.sock)
    except OSError:  # the successor has ended, so this process must remove everything
        inheritance.forget()
        return
    if process.lock is not None:
        process.lock.forget()


def leave_to_next_program(succession: Succession) -> list[int]:
    """Hand everything to the program that this process executes next.

    :returns: the descriptors to keep open.
    """
    process, bus = succession.process, succession.bus
    fill_numbers()  # the site may have closed them since the start
    # Make no copy: if a copy is closed, the system no longer names this process.
    lock = None if process.lock is None else process.lock.fd
    inheritance = succession.inheritance(lock)
    if process.control is not None and not has_lost_its_file(process.control):
        inheritance.control = process.control.bequeath()
    inheritance.daemon = process.options.daemon
    inheritance.drained = bus is not None and bus.drained
    inheritance.files = process.launch.found_files
    if process.entry is not None and process.entry.fd != -1:
        inheritance.entry = process.entry.fd
    if process.ops is not None:
        inheritance.ops = process.ops.bequeath()
    inheritance.problem = process.problem
    inheritance.reload = process.reload if process.announced else None
    if process.renewal is not None:
        inheritance.renewal = process.renewal.handed_over()
    if process.worker is not None:
        inheritance.worker = process.worker.bequeath()
    else:
        inheritance.report = process.launch.report.fd
    inheritance.to_environ(os.environ)
    return inheritance.kept
