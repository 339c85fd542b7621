"""The id of each request: in environ, in the log records of its thread, on the scoreboard."""

from __future__ import annotations

import os
import re
from contextvars import ContextVar
from itertools import chain, count, repeat

from paste_wspbus.reference import REQUEST_ID_KEY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class RequestId:
    """The id of the request that this thread handles; `contextvars` pass it on."""

    def __init__(self) -> None:
        # Nothing is reset when a request ends: each request would pay for it.
        self._current: ContextVar[tuple[dict[int, Any], int, int]] = ContextVar(
            'request'
        )
        #: It is called with (the requests in flight, the id() of environ, the number of
        #: the request) when a thread begins to handle one.
        self.set = self._current.set

    def get(self) -> str:
        """Return the id; '' outside of requests."""
        try:
            requests, key, number = self._current.get()
            environ, *_, found = requests[key]
        except LookupError:
            return ''
        return environ.get(REQUEST_ID_KEY, '') if found == number else ''


#: The id of the request that this thread handles.
request_id = RequestId()

#: A hundred ids without their beginning: they are made at once.
_BLOCK = ' '.join(f'@{number:02}' for number in range(100))

#: What an id that a client sends may be.
_is_id = re.compile(r'[A-Za-z0-9._-]{1,64}').fullmatch

#: The header of W3C Trace Context: its version, the id of the trace, that of the caller,
#: flags; a later version may have more.
_TRACE = re.compile(
    r'((?!ff)[0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?'
).fullmatch


class Ids:
    """Gives each request its id; `renew` is for a forked process."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin anew: no other process makes the same ids."""
        self.prefix = f'{os.urandom(6).hex()}-'
        # It is all C: no thread can come in between, and so two threads get two ids.
        begins = map(self.prefix.__add__, map(str, count(1)))
        blocks = map(str.split, map(_BLOCK.replace, repeat('@'), begins))
        #: Returns an id that no other request has: the prefix, and a number above 99.
        self.new = chain.from_iterable(blocks).__next__

    def of(self, environ: dict[str, Any]) -> str:
        """Return the id of a request.

        :returns: that of X-Request-ID, or of the trace in traceparent; a new one if there
            is neither, or if it is not valid.
        """
        sent = environ.get('HTTP_X_REQUEST_ID')
        if sent is not None and _is_id(sent):
            return sent  # type: ignore[no-any-return]
        sent = environ.get('HTTP_TRACEPARENT')
        trace = _TRACE(sent) if sent else None
        # Only later versions have more fields.
        if trace is not None and (trace[1] != '00' or trace[3] is None):
            return trace[2]
        return self.new()
