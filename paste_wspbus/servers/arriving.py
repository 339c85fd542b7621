"""What a server reports of the beginning and the end of a request."""

from __future__ import annotations

from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: The key in ``environ`` of the time.monotonic() at which the server had the request.
RECEIVED_KEY = 'wspbus.received'

#: How a request has ended that was answered, for an access log.
DONE = 'done'

#: What an access log's function raises if a request has something unusual.
UNUSUAL = (AttributeError, LookupError, TypeError)


class Known(NamedTuple):
    """How the function that makes the line of a request gets its fields.

    Most of it is Python, by the names of the fields. It may raise one of `UNUSUAL`: then the
    line is made from ``environ`` alone.

    :param arguments: the names of the arguments of the function.
    :param before: statements that the others need.
    :param texts: texts that cannot change a line. Of ``line`` it is that of method, uri and
        protocol, with spaces between them.
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
