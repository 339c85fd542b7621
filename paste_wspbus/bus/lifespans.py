"""The lifespans of a bus by name, and how some of them join a start that has begun."""

from __future__ import annotations

import _heapq as heapq
from collections import deque

from paste_wspbus.bus.channels import Listener
from paste_wspbus.errors import NameTaken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from paste_wspbus.bus.needs import Group

#: A place that comes after the places of all listeners.
_END: tuple[float, ...] = (float('inf'), 0)


class Member:
    """What a bus holds in its `Lifespans`: a `Lifespan`, whose module few sites need."""

    name: str
    start_listener: Listener
    stop_listener: Listener
    is_entered: bool


class Lifespans(dict):  # type: ignore[type-arg]
    """All lifespans of a bus by name."""

    def __init__(self) -> None:
        super().__init__()
        #: The parts of the site that name others: see `bus.needs`, which is imported if
        #: there are some.
        self.groups: dict[str, Group] = {}
        #: From each name that a caller asked for to the first number that may be free.
        self._next: dict[str, int] = {}
        #: From each name that was made here to the name that the caller asked for, and the
        #: number.
        self._made: dict[str, tuple[str, int]] = {}

    def free_name(self, name: str) -> str:
        """Return the first free name of ``name``, ``name-2``, ``name-3``, …"""
        number = self._next.get(name, 1)
        while (free := name if number == 1 else f'{name}-{number}') in self:
            number += 1
        self._next[name] = number
        self._made[free] = name, number
        return free

    def add(self, lifespan: Member) -> None:
        """Keep a lifespan under its name.

        :raises NameTaken: if another lifespan has that name.
        """
        if self.setdefault(lifespan.name, lifespan) is not lifespan:
            raise NameTaken(lifespan.name)

    def pop(self, name: str, *default: Any) -> Any:
        """Remove a lifespan; after this, its name is free."""
        made, number = self._made.pop(name, (name, 1))
        self.groups.pop(name, None)
        if made in self._next:
            self._next[made] = min(self._next[made], number)
        return super().pop(name, *default)


class Line:
    """The listeners that a start has not called yet, in order; lifespans can join them late.

    Why a late lifespan is entered exactly once. Any thread may add a lifespan while
    another thread runs the start. If the start has not reached its place yet, the start
    enters it, else the thread that added it does. `join` compares the lifespan's place
    with the place of the listener that was called last, and appends the lifespan to the
    arrivals, which is one step of the interpreter. The start takes arrivals out before
    each listener, and once more after the last listener, when the bus is STARTED already
    (`rest`). So the start misses an arrival only if it comes after that last check. Then
    the bus is not STARTING any more, and the thread that added the lifespan sees that,
    and calls `withdraw`. Only one of `withdraw` and `rest` can take the arrival out of
    the deque, and the thread that took it enters it. If a start ended early, `clear`
    drops the remaining arrivals: the next start calls them as ordinary listeners. If
    `position` is read a moment too early or too late, both threads may try to enter the
    lifespan: `Lifespan.start` has a lock, and does nothing the second time.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[tuple[float, ...], int, Listener]] = []
        self._arrivals: deque[Member] = deque()
        #: The place of the listener that was called last; None before the first call.
        self.position: tuple[float, ...] | None = None

    def open(self, listeners: Iterable[Listener]) -> None:
        """Begin a start with these listeners."""
        # A sorted list is a heap. If two places are equal, the id decides, because
        # listeners cannot be compared.
        self._pending = sorted((one.place, id(one), one) for one in listeners)
        self.position = None

    def next(self) -> Listener | None:
        """Take the listener to call next; None if no listener remains."""
        while (arrival := self._take_arrival()) is not None:
            listener = arrival.start_listener
            heapq.heappush(self._pending, (listener.place, id(listener), listener))
        if not self._pending:
            return None
        listener = heapq.heappop(self._pending)[2]
        self.position = listener.place
        return listener

    def close(self) -> None:
        """End the start, also early: from now on, the start has passed all places."""
        self.position = _END
        self._pending = []

    def rest(self) -> Listener | None:
        """Take an arrival that joined after the last listener; None if there is none."""
        arrival = self._take_arrival()
        return None if arrival is None else arrival.start_listener

    def clear(self) -> None:
        """Drop the arrivals, because the start has failed."""
        self._arrivals.clear()

    def join(self, lifespan: Member) -> bool:
        """Let the start enter a lifespan, unless the start has passed its place.

        :returns: True if it is one of the arrivals now; False if its place was passed.
        """
        position = self.position
        if position is not None and position >= lifespan.start_listener.place:
            return False
        self._arrivals.append(lifespan)
        return True

    def withdraw(self, lifespan: Member) -> bool:
        """Take a lifespan out of the arrivals; False if the start has taken it already."""
        try:
            self._arrivals.remove(lifespan)
        except ValueError:
            return False
        return True

    def _take_arrival(self) -> Member | None:
        try:
            return self._arrivals.popleft()
        except IndexError:
            return None
