"""The channels of waitress in a worker: a thread is kept free for each new one."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from paste_wspbus.servers.free_threads import Sharing
    from paste_wspbus.servers.waitress import WaitressServer


def in_worker(
    channel_class: type[Any], server: WaitressServer, servers: list[Any]
) -> type[Any]:
    """Return the class of the channels of a server in a worker; give it its method ``take``.

    :param servers: those of waitress.
    """
    if server.sharing is not None:
        channel_class = expecting(channel_class, server.sharing)
    # If waitress reads further requests in advance, it does so while a response leaves.
    if server.untouched is not None and not servers[0].adj.channel_request_lookahead:
        from paste_wspbus.servers.waitress_untouched import accept, marking

        channel_class = marking(channel_class, server.untouched)

        def take(connection: socket.socket) -> object:
            return server.in_loop(lambda: accept(server, connection, servers))

        server.take = take
    return channel_class


def expecting(base: type[Any], sharing: Sharing) -> type[Any]:
    """Return a class of channels whose first request is expected; see `Sharing.expect`."""

    class Channel(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            sharing.expect(self)

        def received(self, data: Any) -> Any:
            is_first = not self.has_received
            found = super().received(data)
            if is_first:  # now its request is counted
                sharing.expect_no_more(self)
            return found

        def handle_close(self) -> None:
            sharing.expect_no_more(self)
            super().handle_close()

    return Channel
