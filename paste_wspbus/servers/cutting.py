"""The requests that a stop cuts: which they are, what each waits for, what the log says."""

from __future__ import annotations

import enum
import gc
import io
import socket
import sys
import time
import traceback
from collections import Counter
from typing import NamedTuple

from paste_wspbus.bus.places import is_at_prompt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType
    from typing import Any

    from paste_wspbus.servers.server import Server

#: The number of requests that the log names one by one, and of stacks that it shows.
NAMED, SHOWN = 100, 3

#: Seconds that a request has to end in which the application computes when the others are cut:
#: it may have begun only then, because a thread was free at last. And seconds between two looks.
MOMENT, BETWEEN = 0.5, 0.05

#: The number of characters of a path that the log shows.
LENGTH = 200


class WaitsFor(enum.Enum):
    """What a request in flight waits for."""

    CLIENT_SENDS = 'the client has not sent the rest'
    CLIENT_READS = 'the client does not read'
    STREAM = 'a stream'
    THREAD = 'no thread is free for it'
    APPLICATION = 'the application computes'
    CLOSE = 'the close() of its response has not returned'
    DEBUGGER = 'a debugger waits at its prompt'


#: For these, the application is to blame.
_COMPUTES = frozenset({WaitsFor.APPLICATION, WaitsFor.CLOSE})


class RequestInFlight(NamedTuple):
    """A request in flight. ``since`` is a time.monotonic(), ``stack`` is that of its thread."""

    method: str
    target: str
    since: float
    waits_for: WaitsFor
    stack: Stack | None = None
    #: The adapter's own object for the connection.
    connection: Any = None

    @property
    def name(self) -> str:
        """Its method and its path, without the query."""
        # ascii(): a client must not write control characters into the log or on a terminal.
        method, path = (
            ascii(text)[1:-1][:LENGTH]
            for text in (self.method, self.target.partition('?')[0])
        )
        return f'{method} {path}'.strip() or 'a request without a head'

    def __str__(self) -> str:
        age = time.monotonic() - self.since
        return f'{self.name}, in flight for {age:.1f} s: {self.waits_for.value}'

    def exactly(self) -> RequestInFlight:
        """Return this; but say so if the application closes its response, or waits for a developer."""
        stack, found = self.stack, self.waits_for
        if stack is None or found not in (WaitsFor.APPLICATION, WaitsFor.STREAM):
            return self
        if stack.closes_response:
            found = WaitsFor.CLOSE
        if found in _COMPUTES and stack.is_at_prompt:
            found = WaitsFor.DEBUGGER
        return self._replace(waits_for=found)


def cut(server: Server, reloads: bool) -> None:
    """End the requests that remain: the parts that stop after the server need time, too.

    A slow client must not make the stop fail. So the exit code is 1 only if the
    application was still computing, for longer than a `MOMENT`, and nobody has hurried the
    stop.

    :param reloads: whether the site stops because of a save, under --reload.
    """
    bus = server.bus
    requests, is_computing = _in_flight(server, 0 if reloads else MOMENT)
    server.cut()  # before the log: threads that end leave the interpreter to this one
    if requests and reloads:
        bus.log(describe_for_reload(requests), level=30)
    elif requests:
        bus.log(describe(requests), level=40 if is_computing else 30)
    if is_computing and not bus.hurried:
        bus.exit_code = bus.exit_code or 1
    if requests:
        streams = sum(one.waits_for is WaitsFor.STREAM for one in requests)
        bus.publish('requests_cut', streams, len(requests) - streams)


def _in_flight(server: Server, moment: float) -> tuple[list[RequestInFlight], bool]:
    """Return the requests in flight, and whether the application computes all the time in one.

    Clients that keep all threads busy let each request that waits begin at any time, also
    just before the cut. Nobody is to blame for it, and most end within milliseconds.

    :param moment: seconds to wait, at most, for those in which the application computes now.
    """
    until, computing = time.monotonic() + server.at_most(moment), None
    while True:
        requests = [one.exactly() for one in server.requests_in_flight()]
        found = {
            (id(one.connection), one.since)
            for one in requests
            if one.waits_for in _COMPUTES
        }
        computing = found if computing is None else computing & found
        if not computing or server.bus.hurried or time.monotonic() >= until:
            return requests, bool(computing)
        time.sleep(BETWEEN)


def text_of(value: object) -> str:
    """Return a method or a path of a request as a text; some servers have it as bytes."""
    if isinstance(value, bytes):
        return value.decode('latin-1')
    return value if isinstance(value, str) else ''


def describe(requests: list[RequestInFlight]) -> str:
    """Return what the log says of a cut: a line for each request, the longest open first."""
    kinds = Counter(request.waits_for for request in requests)
    totals = ', '.join(
        f'{kind.value}: {kinds[kind]}' for kind in WaitsFor if kinds[kind]
    )
    ordered = sorted(requests, key=lambda request: request.since)
    # Requests in which the application computes come first: the fault is probably there.
    ordered.sort(key=lambda request: request.waits_for not in _COMPUTES)
    plural = 's' if len(requests) > 1 else ''
    lines = [f'The stop cuts {len(requests)} request{plural} in flight ({totals}):']
    lines += [f'  {request}' for request in ordered[:NAMED]]
    if len(ordered) > NAMED:
        lines.append(f'  and {len(ordered) - NAMED} more')
    shown = [one for one in ordered if one.waits_for in _COMPUTES][:SHOWN]
    for request in shown:
        if request.stack is not None:
            lines.append(f'  The stack of {request.name}:')
            lines.append(str(request.stack))
    return '\n'.join(lines)


def describe_for_reload(requests: list[RequestInFlight]) -> str:
    """Return one line on the requests that a reload cuts, the longest open first."""
    now = time.monotonic()
    ordered = sorted(requests, key=lambda request: request.since)
    shown = [
        f'{request.name} after {now - request.since:.1f} s'
        for request in ordered[:NAMED]
    ]
    if len(ordered) > NAMED:
        shown.append(f'{len(ordered) - NAMED} more')
    return f'The reload cuts {", ".join(shown)}'


#: The methods of sockets, and of files made of sockets, that wait for a client.
_READS = frozenset({'readinto', 'read', 'recv', 'recv_into'})
_WRITES = frozenset({'write', 'send', 'sendall'})
#: socketserver's writer, which is private, is a BufferedIOBase.
_SOCKETS = (socket.SocketIO, socket.socket, io.BufferedIOBase)


#: The number of attempts to read the whole stack of a running thread.
LOOKS = 20


class Stack:
    """The calls that a thread executes, the innermost first: each method with its ``self``.

    :param ident: that of the thread; None for a greenlet that is suspended.
    """

    def __init__(self, frame: FrameType, ident: int | None = None) -> None:
        self._frame, self.ident = frame, ident
        self.calls: list[tuple[str, object]] = []
        below: FrameType | None = frame
        while below is not None:
            self.calls.append((below.f_code.co_name, below.f_locals.get('self')))
            below = below.f_back

    def __str__(self) -> str:
        return ''.join(traceback.format_stack(self._frame)).rstrip()

    @property
    def is_whole(self) -> bool:
        """Whether the stack goes back to the start of a thread.

        The thread continues to run while this process reads its stack. If a generator
        yields meanwhile, its frame does not have its caller any more.
        """
        return self.calls[-1][0] in ('_bootstrap', '<module>')

    @property
    def closes_response(self) -> bool:
        """Whether the server has called the close() of a response, and this runs."""
        return any(
            name.startswith('close') and hasattr(type(owner), 'closes_response')
            for name, owner in self.calls
        )

    @property
    def is_at_prompt(self) -> bool:
        """Whether pdb, or a debugger that is made of it, waits for a command."""
        return is_at_prompt(self._frame)

    def waits_for_client(self, connection: socket.socket) -> WaitsFor | None:
        """Return whether the thread waits until it can read or write a connection.

        :returns: None if it does neither.
        """
        for name, owner in self.calls:
            # Not isinstance(): the site's objects may have a __class__ of their own.
            if not issubclass(type(owner), _SOCKETS):
                continue
            if owner is connection or getattr(owner, '_sock', None) is connection:
                if name in _READS:
                    return WaitsFor.CLIENT_SENDS
                if name in _WRITES:
                    return WaitsFor.CLIENT_READS
        return None

    def find(self, kind: type) -> object:
        """Return the innermost object of a class whose method runs; None if there is none."""
        for _, owner in self.calls:
            if issubclass(type(owner), kind):
                return owner
        return None


def stacks_by_owner() -> Mapping[int, Stack]:
    """Return, for the id() of each object whose method runs, the stack of that thread.

    The stacks are read only when a stop cuts requests: serving costs nothing more.
    """
    found: dict[int, Stack] = {}
    for frame in _frames_of_greenlets():
        _note(Stack(frame), found)
    for ident, frame in sys._current_frames().items():
        stack = Stack(frame, ident)
        for _ in range(LOOKS):
            if stack.is_whole:
                break
            stack = Stack(sys._current_frames().get(ident, frame), ident)
        _note(stack, found)
    return found


def _note(stack: Stack, found: dict[int, Stack]) -> None:
    for _, owner in stack.calls:
        if owner is not None:
            found[id(owner)] = stack


def _frames_of_greenlets() -> list[FrameType]:
    """Return the frames of suspended greenlets, which a site may use in place of threads."""
    greenlet = sys.modules.get('greenlet')
    if greenlet is None:
        return []
    suspended = [
        one for one in gc.get_objects() if issubclass(type(one), greenlet.greenlet)
    ]
    return [one.gr_frame for one in suspended if one.gr_frame is not None]
