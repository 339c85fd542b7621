"""The request handlers of Paste#http in a worker: connections on which no request has begun are marked."""

from __future__ import annotations

import io

from paste_wspbus.servers.untouched import Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.servers.untouched import Untouched


def marking(
    base: type[Any], untouched: Untouched, given: dict[Any, bytes]
) -> type[Any]:
    """Return a class of handlers of connections that are marked as `Untouched` says.

    Only the first request of a connection counts: its thread waits for the next one.

    :param given: the connections of another worker, and what that has read of them.
    """

    class Handler(base):  # type: ignore[misc]
        rfile: Any

        def setup(self) -> None:
            super().setup()
            self.fd, raw = self.connection.fileno(), Reader(self.connection, untouched)
            if (read := given.pop(self.request, None)) is not None:
                raw.is_given(read)
            self.rfile.close()
            self.rfile = io.BufferedReader(raw)

        def begins_request(self) -> None:
            untouched.remove(self.fd)
            super().begins_request()

        def send_error(self, *args: Any, **kwargs: Any) -> None:
            untouched.remove(self.fd)
            super().send_error(*args, **kwargs)

        def finish(self) -> None:
            untouched.remove(self.fd)
            super().finish()

    return Handler
