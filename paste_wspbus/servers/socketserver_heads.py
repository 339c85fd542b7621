"""The request handlers of `http.server`: usual heads are parsed in one step."""

from __future__ import annotations

from http.client import HTTPMessage

from paste_wspbus.servers.usual_heads import first_line, headers_of, keeping, received

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class UsualHeaders(HTTPMessage):
    """The headers of a usual head, which nobody changes: each name is there once."""

    def __init__(self, headers: list[tuple[str, str]]) -> None:
        super().__init__()
        for name, value in headers:
            self.set_raw(name, value)
        self.set_payload('')
        self._usual = headers
        self._by_name = {name.lower(): value for name, value in headers}

    def items(self) -> Any:
        """Return the names and values."""
        return self._usual.copy()

    def get(self, name: str, failobj: Any = None) -> Any:
        """Return the value of a header."""
        return self._by_name.get(name.lower(), failobj)

    def get_all(self, name: str, failobj: Any = None) -> Any:
        """Return the values of a header."""
        value = self._by_name.get(name.lower())
        return failobj if value is None else [value]


@keeping
def _usual(data: bytes) -> UsualHeaders | None:
    headers = headers_of(data)
    if headers is None:
        return None
    usual = UsualHeaders(headers)
    # The handler answers the first; the email package looks for parts in the second.
    kind = usual.get('Content-Type', '').lower()
    if usual.get('Expect') is not None or kind.startswith(('multipart', 'message')):
        return None
    return usual


def parse(handler: Any) -> bool:
    """Do what ``parse_request`` of a handler does if its head is a usual one; else nothing.

    :returns: whether it has.
    """
    line = first_line(handler.raw_requestline)
    data = None if line is None else received(handler.rfile)
    headers = None if data is None else _usual(data)
    if line is None or data is None or headers is None:
        return False
    handler.rfile.read(len(data))
    handler.requestline = line[0][:-2].decode()
    handler.command, handler.path = line[1].decode(), line[2].decode()
    handler.request_version, handler.headers = line[5].decode(), headers
    connection = headers.get('Connection', '').lower()
    may_keep = handler.protocol_version >= 'HTTP/1.1' and connection != 'close'
    keeps = handler.request_version == 'HTTP/1.1' or connection == 'keep-alive'
    handler.close_connection = not (may_keep and keeps)
    return True
