"""The threads of cheroot's pool, and the connections that they have, or that wait for them."""

from __future__ import annotations

from cheroot.workers.threadpool import WorkerThread

from paste_wspbus.plugins.threads import acquired

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.bus import Bus


class Worker(WorkerThread):  # type: ignore[misc]
    """A thread of cheroot's pool, acquired before its first request and released at its end."""

    bus: Bus
    #: If several workers serve: the connections that have a thread, or wait for one.
    in_pool: set[Any] | None = None
    #: It is called with each of them when this thread has served it.
    has_served: Callable[[Any], object]
    _conn: Any = None

    @property
    def conn(self) -> Any:
        """The connection that this thread serves; cheroot sets it, and None afterwards."""
        return self._conn

    @conn.setter
    def conn(self, conn: Any) -> None:
        served, self._conn = self._conn, conn
        if conn is None and self.in_pool is not None and served in self.in_pool:
            self.has_served(served)

    def run(self) -> None:
        """Serve connections, until the pool is shut down."""
        with acquired(self.bus):
            super().run()
