"""What a server reports about a request: when it arrived, and how it has ended."""

from __future__ import annotations

from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: The key in ``environ`` of the time.monotonic() at which the request arrived.
RECEIVED_KEY = 'wspbus.received'

#: For an access log: the end of a request that was answered.
DONE = 'done'

#: The errors that the function of an access log raises if a request has something
#: unusual.
UNUSUAL = (AttributeError, LookupError, TypeError)


class Known(NamedTuple):
    """How the function that makes the line of a request gets its fields.

    Most of them are expressions in Python, by the name of the field. If one raises an
    error of `UNUSUAL`, the line is made from ``environ`` alone.

    :param arguments: the names of the arguments of the function.
    :param before: statements that the expressions need.
    :param texts: fields whose text needs no escapes in a line. ``line`` is the method,
        the uri and the protocol, with spaces between them.
    :param status: the status line.
    :param numbers: ``bytes``, ``waited_us`` and ``spent_us``.
    :param end: how each request ended; None if that is an argument.
    :param head: a dictionary of headers, by key, with room for attributes: requests with the
        same headers may have the same one. None if there is none.
    """

    arguments: str
    before: tuple[str, ...]
    texts: Mapping[str, str]
    status: str
    numbers: Mapping[str, str]
    end: str | None = None
    head: str | None = None
