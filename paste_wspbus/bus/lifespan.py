"""A lifespan: the bus enters its context at start, and leaves it at stop."""

from __future__ import annotations

import contextlib
import threading
from collections import deque

from paste_wspbus.bus.channels import Listener, call_next
from paste_wspbus.bus.lifespans import Member
from paste_wspbus.bus.states import ALIVE, State
from paste_wspbus.bus.turn import LEAVING
from paste_wspbus.errors import LifespanRefused, NameTaken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from paste_wspbus.bus.bus import Bus
    from paste_wspbus.bus.lifespans import Line


class Lifespan(Member):
    """A context that the bus enters at start and leaves at stop.

    It has two listeners. `start` is called at ``priority``, `stop` at 100 -
    ``priority``. The second is subscribed when the first has succeeded, so the bus leaves
    only a context that it has entered.

    Why each context that was entered is left once, although a signal handler can raise an
    exception between any two steps of the main thread. `call_next` calls ``__enter__``
    and ``__exit__``, so `start` knows in its ``except`` whether the first has returned,
    and `stop` whether the second has begun. If the exception comes inside one of them, a
    generator itself says whether it waits at its ``yield``; any other context manager has
    dealt with the exception itself. If the context is entered, it stays so, and listens
    to 'stop'; the bus calls `stop` once more.

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
                call_next(deque((context,)), '__enter__', resources)
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
    def is_entered(self) -> bool:  # type: ignore[override]
        """Whether the context is entered."""
        return self._entered is not None

    def stop(self, *args: object, **kwargs: object) -> None:
        """Leave the context, if it is entered.

        :raises BaseException: whatever the context manager raises.
        """
        taken: deque[contextlib.AbstractContextManager[Any]] = deque()
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
            call_next(taken, '__exit__', [], None, None, None)
        except BaseException as error:
            if context is not None and (taken or _is_suspended(context, error)):
                self._note(context, resource)
            raise

    def unsubscribe(self) -> None:
        """Do not enter it at later starts. If it is entered now, the next stop ends it."""
        self.bus.channel('start').unsubscribe(self.start)
        self.bus.lifespans.pop(self.name, None)


def add(
    bus: Bus,
    line: Line,
    make: Callable[[], contextlib.AbstractContextManager[Any]],
    name: str | None,
    default_name: str,
    priority: float | None,
    timeout: float | None,
    needs: str | Iterable[str] | None,
    after: str | Iterable[str] | None,
) -> Lifespan:
    """Add a lifespan to a bus, and enter it if it comes late; see `Bus.lifespan`.

    :param line: what the present start has not called yet.
    :param default_name: the name if ``name`` is None, with a number if it is taken.
    :raises LifespanRefused: while the bus is stopping.
    :raises NameTaken: if another lifespan has this name.
    :raises NeedError: if the bus is started, and what it needs is not.
    """
    is_stopping = bus.state in (State.DRAINING, State.STOPPING)
    if is_stopping or bus.command in LEAVING:
        raise LifespanRefused(name or default_name, bus.state)
    while True:
        wanted = name or bus.lifespans.free_name(default_name)
        lifespan = Lifespan(bus, wanted, make, priority, timeout)
        try:
            bus.lifespans.add(lifespan)
            break
        except NameTaken:
            if name:
                raise
            # Another thread has just taken the free name: look for the next one.
    bus.channel('start').subscribe(lifespan.start_listener)
    try:
        if needs or after:
            from paste_wspbus.bus.needs import add as add_needs

            add_needs(bus, lifespan.name, needs, after)
        _enter_if_late(bus, line, lifespan)
    except BaseException:
        lifespan.unsubscribe()
        raise
    return lifespan


def _enter_if_late(bus: Bus, line: Line, lifespan: Lifespan) -> None:
    """Enter it now if the start has passed its place, or is over; see `Line`."""
    if (
        bus.state is State.STARTING
        and line.join(lifespan)
        # Check the state again: the start may have ended without seeing the lifespan.
        and (bus.state is State.STARTING or not line.withdraw(lifespan))
    ):
        return
    if bus.state in ALIVE:
        bus.calls.call('start', deque((lifespan.start_listener,)), [])
        # A stop may have come meanwhile, and may not have seen the lifespan.
        if bus.state not in ALIVE:
            lifespan.stop()
            raise LifespanRefused(lifespan.name, bus.state)


def _is_suspended(
    context: contextlib.AbstractContextManager[Any], error: BaseException
) -> bool:
    """Whether an interrupt has kept a context of contextlib from being left."""
    # contextlib raises RuntimeError if the generator has a second yield.
    return not isinstance(error, RuntimeError) and getattr(
        getattr(context, 'gen', None), 'gi_suspended', False
    )
