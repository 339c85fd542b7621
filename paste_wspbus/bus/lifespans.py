"""Lifespans: the bus enters them at start and leaves them at stop; some join during a start."""

from __future__ import annotations

import _heapq as heapq
import contextlib
import threading
from collections import deque

from paste_wspbus.bus.channels import Listener
from paste_wspbus.errors import NameTaken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from paste_wspbus.bus.bus import Bus
    from paste_wspbus.bus.needs import Group

#: A place that comes after the places of all listeners.
_END: tuple[float, ...] = (float('inf'), 0)


class Lifespan:
    """A context that the bus enters at start and leaves at stop.

    It has two listeners. `start` is called at ``priority``, `stop` at 100 -
    ``priority``. The second is subscribed when the first has succeeded, so the bus leaves
    only a context that it has entered.

    Why each context that was entered is left once, although a signal handler can raise an
    exception between any two steps of the main thread. No line is between the end of
    ``__enter__`` and the note that it has ended, nor between the note that ``__exit__``
    is called and the call. Inside these two lines, a generator itself says whether it
    waits at its ``yield``. So `start` and `stop` know in their ``except`` whether the
    context is entered. If it is, it stays entered, and listens to 'stop'; the bus calls
    `stop` once more.

    Why two threads may use one lifespan. The thread that adds a lifespan late enters it,
    and leaves it again if the bus has stopped meanwhile. Other threads may stop and start
    the bus at the same time. So two threads can be in `start`, or in `stop`, or one in
    each. ``_entering`` lets one thread at a time enter the context: the second thread
    waits, and then finds it entered. ``_lock`` keeps three things together: the context
    to leave, the resource, and the subscription to 'stop'. So if two threads are in
    `stop`, only one takes the context. And suppose that another thread enters the
    lifespan again: the thread that leaves the old context cannot unsubscribe the new
    subscription. An entered lifespan always listens to 'stop'. No context is entered or
    left while ``_lock`` is held, because a context may wait for another thread. Both
    locks are RLocks: a signal handler may stop the bus in the middle of these steps.

    :param name: the lifespan's name in ``bus.resources`` and ``bus.lifespans``.
    :param make: makes the context manager that one start enters.
    :param priority: that of the start listener; `DEFAULT_PRIORITY` (50) if None.
    :param timeout: seconds for each of the two listeners; None stands for no limit.
    """

    def __init__(
        self,
        bus: Bus,
        name: str,
        make: Callable[[], contextlib.AbstractContextManager[Any]],
        priority: float | None,
        timeout: float | None,
    ) -> None:
        self.bus, self.name, self._make = bus, name, make
        self.start_listener = Listener(
            self.start, priority=priority, timeout=timeout, name=name
        )
        self.stop_listener = Listener(
            self.stop,
            priority=100 - self.start_listener.priority,
            timeout=timeout,
            name=name,
            order=self.start_listener.order,
        )
        #: The context that is entered, which a stop must leave; None if there is none.
        self._entered: contextlib.AbstractContextManager[Any] | None = None
        self._entering = threading.RLock()
        self._lock = threading.RLock()

    def start(self, *args: object, **kwargs: object) -> None:
        """Enter the context, unless it is entered already.

        The value that the context manager yields becomes ``bus.resources[name]``.

        :raises BaseException: whatever the context manager raises.
        """
        with self._entering:  # another thread may be entering it
            if self._entered is not None:
                return
            context = self._make()
            resources: list[Any] = []
            try:
                resources.append(context.__enter__())
                self._note(context, *resources)
            except BaseException as error:
                if resources or _is_suspended(context, error):
                    self._note(context, *resources)
                raise

    def _note(
        self, context: contextlib.AbstractContextManager[Any], resource: Any = None
    ) -> None:
        with self._lock:
            self.bus.resources[self.name] = resource
            self.bus.channel('stop').subscribe(self.stop_listener)
            self._entered = context

    @property
    def is_entered(self) -> bool:
        """Whether the context is entered."""
        return self._entered is not None

    def stop(self, *args: object, **kwargs: object) -> None:
        """Leave the context, if it is entered.

        :raises BaseException: whatever the context manager raises.
        """
        taken: list[contextlib.AbstractContextManager[Any]] = []
        context = resource = None
        try:
            with self._lock:
                context, resource = self._entered, self.bus.resources.get(self.name)
                if context is None:
                    return
                taken.append(context)
                self._entered = None
                self.bus.channel('stop').unsubscribe(self.stop)
                self.bus.resources.pop(self.name, None)
            taken.pop().__exit__(None, None, None)
        except BaseException as error:
            if context is not None and (taken or _is_suspended(context, error)):
                self._note(context, resource)
            raise

    def unsubscribe(self) -> None:
        """Do not enter it at later starts. If it is entered now, the next stop ends it."""
        self.bus.channel('start').unsubscribe(self.start)
        self.bus.lifespans.pop(self.name, None)


def _is_suspended(
    context: contextlib.AbstractContextManager[Any], error: BaseException
) -> bool:
    """Whether an interrupt has kept a context of contextlib from being left."""
    # contextlib raises RuntimeError if the generator has a second yield.
    return not isinstance(error, RuntimeError) and getattr(
        getattr(context, 'gen', None), 'gi_suspended', False
    )


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

    def add(self, lifespan: Lifespan) -> None:
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
        self._arrivals: deque[Lifespan] = deque()
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

    def join(self, lifespan: Lifespan) -> bool:
        """Let the start enter a lifespan, unless the start has passed its place.

        :returns: True if it is one of the arrivals now; False if its place was passed.
        """
        position = self.position
        if position is not None and position >= lifespan.start_listener.place:
            return False
        self._arrivals.append(lifespan)
        return True

    def withdraw(self, lifespan: Lifespan) -> bool:
        """Take a lifespan out of the arrivals; False if the start has taken it already."""
        try:
            self._arrivals.remove(lifespan)
        except ValueError:
            return False
        return True

    def _take_arrival(self) -> Lifespan | None:
        try:
            return self._arrivals.popleft()
        except IndexError:
            return None
