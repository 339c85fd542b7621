"""The request handlers of Paste#http in a worker: connections on which no request has begun are marked."""

from __future__ import annotations

import contextlib
import io

from paste_wspbus.servers.untouched import Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.servers.untouched import Untouched


def marking(base: type[Any], untouched: Untouched) -> type[Any]:
    """Return a class of handlers of connections that are marked as `Untouched` says."""

    class Handler(base):  # type: ignore[misc]
        rfile: Any
        close_connection: bool
        #: Paste's own file gets no buffer: ours takes its place at once.
        rbufsize = 0

        def setup(self) -> None:
            super().setup()
            self.raw = Reader(self.connection, untouched)
            self.rfile.close()
            self.rfile = io.BufferedReader(self.raw)

        def handle_one_request(self) -> None:
            super().handle_one_request()
            if not self.close_connection:
                self.raw.has_answered(self.rfile)

        def begins_request(self) -> None:
            self.raw.receive()
            super().begins_request()

        def send_error(self, *args: Any, **kwargs: Any) -> None:
            self.raw.receive()
            super().send_error(*args, **kwargs)

        def finish(self) -> None:
            # Else the client could lose what was sent last.
            with contextlib.suppress(OSError):
                self.raw.receive()
            super().finish()

    return Handler
