"""The channels of waitress in a worker among several: a thread is kept free for each new one."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.servers.free_threads import Sharing


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
