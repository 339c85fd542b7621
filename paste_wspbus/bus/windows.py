"""How a signal wakes up a main thread that waits for a lock on Windows."""

from __future__ import annotations

import signal
import socket
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable


def watch_signals(wake: Callable[[], None] | None, stack: contextlib.ExitStack) -> None:
    """Call ``wake`` in another thread at each signal, until ``stack`` is closed.

    If the site has set a wake-up descriptor itself, this does nothing.
    """
    # A pair of sockets: on Windows, select() and set_wakeup_fd() take no pipes.
    reader, writer = socket.socketpair()
    reader.settimeout(None)  # the site may have set a default timeout
    writer.setblocking(False)
    previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    if previous != -1 or wake is None:
        signal.set_wakeup_fd(previous)
        reader.close()
        writer.close()
        return
    stack.callback(writer.close)
    stack.callback(signal.set_wakeup_fd, -1)
    threading.Thread(
        target=_watch, args=(reader, wake), name='wspbus signals', daemon=True
    ).start()


def _watch(reader: socket.socket, wake: Callable[[], None]) -> None:
    with reader:
        while reader.recv(512):
            wake()
