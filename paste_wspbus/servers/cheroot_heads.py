"""How cheroot's usual heads are parsed and written in fewer steps; cheroot does it for all others."""

from __future__ import annotations

from cheroot.server import HeaderReader, HTTPRequest

from paste_wspbus.servers.usual_heads import (
    date,
    first_line,
    headers_of,
    keeping,
    received,
)

#: The names of headers for which cheroot does more than to store them.
_SPECIAL = {'Content-Length', 'Transfer-Encoding', 'Expect'}

#: The names of headers of a response that decide about those that cheroot adds.
_DECIDING = {b'connection', b'date', b'server'}


@keeping
def _usual(data: bytes) -> dict[bytes, bytes] | None:
    headers = headers_of(data)
    if headers is None or any(name.title() in _SPECIAL for name, _ in headers):
        return None
    return {name.title().encode(): value.strip(' ').encode() for name, value in headers}


class UsualHeads(HTTPRequest):  # type: ignore[misc]
    """A request: its usual head is parsed in one step, and that of its response is written in one."""

    def parse_request(self) -> None:
        """Parse the head of a request."""
        if not self.parse_usual():
            super().parse_request()

    def parse_usual(self) -> bool:
        """Do what `parse_request` does if the head is a usual one; else nothing.

        :returns: whether it has.
        """
        server, data = self.server, received(self.conn.rfile)
        if data is None or len(data) > (server.max_request_header_size or len(data)):
            return False
        first, _, _ = data.partition(b'\r\n')
        length = len(first) + 2
        line = first_line(data[:length])
        if (
            line is None
            or b'%' in line[3]
            or line[1] == b'CONNECT'
            or server.protocol != 'HTTP/1.1'
            or type(self.header_reader) is not HeaderReader
            or (headers := _usual(data[length:])) is None
        ):
            return False
        self.conn.rfile.read(len(data))
        self.started_request = self.ready = True
        self.method, self.uri, self.path, self.qs = line.group(1, 2, 3, 4)
        self.qs, self.authority = self.qs or b'', b''
        self.request_protocol = line[5]
        self.response_protocol = line[5].decode()
        self.inheaders = headers.copy()
        connection = headers.get(b'Connection', b'')
        if self.response_protocol == 'HTTP/1.1':
            self.close_connection = connection == b'close'
        else:
            self.close_connection = connection != b'Keep-Alive'
        return True

    def send_headers(self) -> None:
        """Write the head."""
        if not self._sends_usual():
            super().send_headers()

    def _sends_usual(self) -> bool:
        """Write a head about which little is to be decided; return False for all others."""
        headers, server, status = self.outheaders, self.server, self.status
        names = {name.lower() for name, _ in headers}
        if (
            b'content-length' not in names
            or names & _DECIDING
            or self.response_protocol != 'HTTP/1.1'
            or not status[:3].isdigit()
            or status.startswith(b'413')
            or getattr(self.rfile, 'remaining', 0)
        ):
            return False
        if not self.close_connection:
            self.close_connection = not server.can_add_keepalive_connection
        if self.close_connection:
            headers.append((b'Connection', b'close'))
        headers.append((b'Date', date().encode()))
        headers.append((b'Server', server.server_name.encode('latin-1')))
        lines = [b'%s: %s\r\n' % header for header in headers]
        first = b'%s %s\r\n' % (server.protocol.encode(), status)
        self.conn.wfile.write(b''.join([first, *lines, b'\r\n']))
        return True
