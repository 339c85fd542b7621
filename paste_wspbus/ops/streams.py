"""The event streams of the console: what goes to each, and when."""

from __future__ import annotations

import json
import time
from typing import Protocol

from paste_wspbus.ops.news import news_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.ops.history import History
    from paste_wspbus.ops.server import Source

#: The number of streams at once. Another one takes the place of the oldest.
MAX_STREAMS = 8

#: Seconds between two events; how long an event waits for the answer of the site; and the
#: age of an answer that is still used.
EVERY, PATIENCE, FRESH = 1.0, 0.7, 0.25

#: Milliseconds after which a browser comes back: when a stream broke, and when the stream
#: had to give its place to another one.
RETRY, RETRY_WHEN_FULL = 1000, 30_000


class Stream(Protocol):
    """A connection that gets events. No method waits."""

    def send(self, data: bytes) -> None:
        """Send data; drop it if the client has not read the data before."""

    def end(self, data: bytes) -> None:
        """Send the last data, as far as that is possible now, and close the connection."""


class Streams:
    """Makes one event a second for all streams together; none while there is no stream.

    The server calls `look` each time it wakes up, and sleeps until `due` at most.
    """

    def __init__(self, source: Source, history: History) -> None:
        self._source, self._history = source, history
        self._streams: list[Stream] = []
        #: The last event, and how many points the history had then.
        self._last, self._points = b'', 0
        #: When the site is asked next; and when it was asked, while its answer is awaited.
        self._next = 0.0
        self._asked_at: float | None = None

    def add(self, stream: Stream, head: bytes = b'') -> None:
        """Begin a stream: it gets the history at once, and the rest within a second.

        :param head: the head of the response.
        """
        if len(self._streams) >= MAX_STREAMS:
            full = f'retry: {RETRY_WHEN_FULL}\n'.encode() + event('full', {})
            self._streams.pop(0).end(full)
        self._streams.append(stream)
        last = self._last if time.monotonic() < self._next else b''
        stream.send(head + f'retry: {RETRY}\n'.encode() + self._past() + last)

    def end(self) -> None:
        """Say to all streams that the listener ends."""
        while self._streams:
            self._streams.pop().end(event('end', {}))

    def remove(self, stream: Stream) -> None:
        """Forget a stream, whose connection is closed."""
        if stream in self._streams:
            self._streams.remove(stream)

    @property
    def due(self) -> float | None:
        """The time.monotonic() of the next `look`; None while there is no stream."""
        if not self._streams:
            return None
        asked_at = self._asked_at
        return self._next if asked_at is None else asked_at + PATIENCE

    def look(self) -> None:
        """Ask the site if it is time, and send an event if it has answered, or does not."""
        if not self._streams:
            self._asked_at = None
            return
        now = time.monotonic()
        if self._asked_at is None:
            if now < self._next:
                return
            self._asked_at = now
            self._source.ask('status')
        told = self._source.snapshot().told.get('status')
        is_fresh = told is not None and told.at >= self._asked_at - FRESH
        if not is_fresh and now < self._asked_at + PATIENCE:
            return
        self._asked_at, self._next = None, now + EVERY
        self._last = self._news()
        data = self._last
        if self._points != self._history.count:
            self._points = self._history.count
            data = self._past() + data
        for stream in list(self._streams):
            stream.send(data)

    def _news(self) -> bytes:
        try:
            return event('news', news_of(self._source.snapshot()))
        except Exception as error:  # no event may end the listener
            return event('broken', {'why': type(error).__name__})

    def _past(self) -> bytes:
        """Return the whole history: a stream that has missed an event gets it again."""
        points = [
            [None if one is None else round(one, 4) for one in point]
            for point in self._history.points
        ]
        return event('history', {'points': points})


def event(name: str, data: object) -> bytes:
    """Return an event (the HTML standard, section 9.2.5): its data is JSON on one line."""
    return f'event: {name}\ndata: {json.dumps(data)}\n\n'.encode()
