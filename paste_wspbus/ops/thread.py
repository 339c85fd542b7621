"""The thread in which a site of one process answers the requests of its ops listener."""

from __future__ import annotations

from _thread import allocate_lock, start_new_thread  # before a site patches Python

from paste_wspbus.ops.server import OpsServer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.ops.holding import Ops
    from paste_wspbus.ops.server import Source

#: Seconds that the thread has to end, before another program takes over the sockets.
END = 1.0


class OpsThread:
    """A thread of the system, also where a site makes greenlets of the others.

    So it answers while the site loads, and while all threads or greenlets of it are busy;
    but not while something holds the GIL.
    """

    def __init__(self, ops: Ops, source: Source) -> None:
        sockets = [listening.sock for listening in ops.sockets]
        self._server = OpsServer(sockets, ops.access, source)
        self._ended = allocate_lock()

    def start(self) -> None:
        """Start the thread.

        :raises RuntimeError: if the system starts no more threads.
        """
        self._ended.acquire()
        start_new_thread(self._run, ())

    def _run(self) -> None:
        try:
            self._server.serve()
        finally:
            self._server.close()
            self._ended.release()

    def end(self) -> None:
        """End the thread, and wait until it has ended, but not for long."""
        if self._ended.locked():
            self._server.stop()
            self._ended.acquire(timeout=END)
