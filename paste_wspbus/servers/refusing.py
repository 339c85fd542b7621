"""The answer to a request that is given up, and who may send it: its thread or another one."""

from __future__ import annotations

import contextlib
import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: What the client of a request gets that takes too long: the body, and the head.
REFUSED = b'The request took too long.\n'
REFUSAL = (
    b'HTTP/1.1 503 Service Unavailable\r\n'
    b'Content-Type: text/plain\r\n'
    b'Content-Length: %d\r\n'
    b'Connection: close\r\n\r\n' % len(REFUSED)
)


def refusal(method: str) -> bytes:
    """Return the whole response to a request that is given up."""
    return REFUSAL if method == 'HEAD' else REFUSAL + REFUSED


def refuse_channel(channel: Any, method: str) -> bool:
    """Refuse the request of a channel of waitress, in the loop's thread, and close it.

    :returns: whether 503 was sent: only if no part of a response was.
    """
    with channel.outbuf_lock:
        requests = list(channel.requests)
        is_new = bool(requests) and requests[0] is not channel.answered
        answers = is_new and channel.connected and not channel.total_outbufs_len
        if answers:
            if hasattr(channel, 'receive'):  # of a worker: see `Untouched`
                channel.receive()
            with contextlib.suppress(OSError):
                channel.socket.send(refusal(method))
        channel.handle_close()
    return answers


class AnswersOnce:
    """A connection whose requests are answered by their thread, or refused by another one."""

    #: It is empty when the head of the response was sent, or is being sent.
    heads: list[bool]

    def begins_request(self) -> None:
        """Note that a request has come in."""
        self.heads = [True]

    def may_send_head(self) -> bool:
        """Whether the caller may send the head; only the first one may, in any thread."""
        try:
            return self.heads.pop()
        except (AttributeError, IndexError):  # there was no request, or it is answered
            return False

    def check_head(self) -> None:
        """Let the caller send the head.

        :raises BrokenPipeError: if the request was refused meanwhile.
        """
        if not self.may_send_head():
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
