"""The client of the control socket: it sends a request, and waits for the answer."""

from __future__ import annotations

import errno
import json
import socket
import time

from paste_wspbus.control import VERSION
from paste_wspbus.control.status import text
from paste_wspbus.errors import WSPBusError, shortage
from paste_wspbus.unix.paths import address_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


#: The number of bytes that an answer has at most.
MAX_ANSWER = 1 << 24

#: Seconds to wait for the whole answer.
ANSWER_TIME = 10.0


class NoAnswer(WSPBusError):
    """The control socket at ``path`` gives no answer, for a ``reason``.

    ``code`` is an errno. ETIMEDOUT: the site is starting, or it hangs. ECONNRESET: it has
    closed the connection. EPROTO: it did not understand the request.
    """

    def __init__(self, path: str, reason: str, code: int = 0) -> None:
        super().__init__(f'{path}: {reason}')
        self.path, self.reason, self.code = path, reason, code

    @property
    def listens(self) -> bool:
        """Whether a process has the socket open."""
        return self.code in (errno.ETIMEDOUT, errno.ECONNRESET, errno.EPROTO)


def connect(path: str, timeout: float | None) -> socket.socket:
    """Connect to a control socket.

    :param timeout: seconds for each step.
    :raises NoAnswer: if no process listens there.
    :raises OSError: if this process has no free descriptor.
    """
    if not hasattr(socket, 'AF_UNIX'):
        raise NoAnswer(path, 'this system has no Unix sockets')
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        until = None if timeout is None else time.monotonic() + timeout
        sock.settimeout(timeout)
        with address_of(path) as address:
            while True:
                try:
                    sock.connect(address)
                    break
                except BlockingIOError:  # the backlog is full: connect(2), EAGAIN
                    if until is not None and time.monotonic() > until:
                        raise
                    time.sleep(0.01)
    except OSError as error:
        sock.close()
        if shortage(error) is not None:
            raise  # this process lacks descriptors, and not the site
        busy = isinstance(error, (BlockingIOError, TimeoutError))
        code = errno.ETIMEDOUT if busy else error.errno or 0
        raise NoAnswer(path, error.strerror or str(error), code) from None
    return sock


def send(sock: socket.socket, command: str, **more: Any) -> None:
    """Ask for ``command``.

    :param more: other keys of the request.
    :raises NoAnswer: if the site has closed its end.
    """
    request = {'version': VERSION, 'command': command, **more}
    try:
        sock.sendall(json.dumps(request).encode() + b'\n')
    except OSError:
        raise NoAnswer('', 'it closed the connection', errno.ECONNRESET) from None


def receive(sock: socket.socket, seconds: float = ANSWER_TIME) -> dict[str, Any] | None:
    """Wait for the answer; return None if the site has closed its end without an answer.

    :param seconds: the seconds for the whole answer.
    :raises NoAnswer: if it does not come in time, or is too long.
    """
    line, until = bytearray(), time.monotonic() + seconds
    try:
        while not line.endswith(b'\n'):
            if (remaining := until - time.monotonic()) <= 0:
                raise TimeoutError
            sock.settimeout(remaining)
            came = sock.recv(65536)
            if not came:
                return None
            line += came
            if len(line) > MAX_ANSWER:
                raise NoAnswer('', 'its answer does not end', errno.EPROTO)
        # JSON has no Infinity, but Python writes it if there is no deadline.
        answer = json.loads(line, parse_constant=lambda _: None)
    except TimeoutError:
        raise NoAnswer('', 'no answer in time', errno.ETIMEDOUT) from None
    except (OSError, ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def ask(path: str, command: str, timeout: float = 2, **more: Any) -> dict[str, Any]:
    """Ask for ``command`` and wait for the answer.

    :param timeout: seconds for the connection, and for the whole answer.
    :param more: other keys of the request.
    :raises NoAnswer: if there is no answer.
    """
    with connect(path, timeout) as sock:
        try:
            send(sock, command, **more)
            answer = receive(sock, timeout)
        except NoAnswer as error:
            raise NoAnswer(path, error.reason, error.code) from None
    if answer is None:
        raise NoAnswer(path, 'it closed the connection', errno.ECONNRESET)
    if 'error' in answer:
        raise NoAnswer(path, text(answer['error']), errno.EPROTO)
    return answer
