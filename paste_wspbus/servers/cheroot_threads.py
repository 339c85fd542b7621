"""The threads of cheroot's pool."""

from __future__ import annotations

from cheroot.workers.threadpool import WorkerThread

from paste_wspbus.plugins.threads import acquired

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.bus import Bus


class Worker(WorkerThread):  # type: ignore[misc]
    """A thread of cheroot's pool, acquired before its first request and released at its end."""

    bus: Bus

    def run(self) -> None:
        """Serve connections, until the pool is shut down."""
        with acquired(self.bus):
            super().run()
