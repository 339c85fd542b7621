"""Channels: their listeners, the order of the calls, and the errors of the listeners."""

from __future__ import annotations

import functools
import itertools
import sys
import threading
from operator import attrgetter, methodcaller
from types import ModuleType

from paste_wspbus.errors import BadPriority, NotCallable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Any

#: The channels whose calls of listeners are timed, recorded and limited in time. The
#: listeners of other channels are only called.
STATE_CHANNELS = frozenset({'start', 'drain', 'stop', 'exit', 'graceful', 'restart'})

#: On these channels, if priorities are equal, the last subscribed listener is called first.
REVERSED_CHANNELS = frozenset({'stop', 'exit'})

#: The priority of a listener that has none of its own, as in `cherrypy.process.wspbus`.
DEFAULT_PRIORITY = 50

_order = itertools.count()

#: The instruction at the beginning of each function. The two lowest bits of its argument are
#: 0 there; it also stands behind each ``yield`` and ``await``, with other arguments.
_RESUME = (lambda: None).__code__.co_code[0]


class ChannelFailures(Exception):
    """The errors of the listeners that one publish called.

    The API is that of `cherrypy.process.wspbus.ChannelFailures`: it is false if empty.
    """

    delimiter = '\n'
    #: After a failed start: the name of the listener that failed.
    listener: str | None = None

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self._exceptions: list[BaseException] = []

    def handle_exception(self) -> None:
        """Keep the exception that is being handled."""
        error = sys.exception()
        if error is not None:
            self._exceptions.append(error)

    def add(self, error: BaseException) -> None:
        """Keep ``error``. If it is a ChannelFailures, keep the errors in it."""
        if isinstance(error, ChannelFailures) and error:
            self._exceptions.extend(error.get_instances())
        else:
            self._exceptions.append(error)

    def get_instances(self) -> list[BaseException]:
        """Return the exceptions that were kept, in the order in which they were raised."""
        return self._exceptions[:]

    def group(self) -> BaseExceptionGroup[BaseException]:
        """Return the same exceptions as an ExceptionGroup, for ``except*``.

        :raises ValueError: if there are none.
        """
        return BaseExceptionGroup('channel failures', self._exceptions)

    def __str__(self) -> str:
        return self.delimiter.join(map(repr, self._exceptions))

    __repr__ = __str__

    def __bool__(self) -> bool:
        return bool(self._exceptions)


class Listener:
    """One subscription: a callback, its arguments, and its place in the order of calls.

    :param callback: any callable.
    :param args: its first arguments, before those that are published.
    :param priority: a lower one is called earlier; ``callback.priority`` or 50 if None.
    :param timeout: seconds, on state channels; ``callback.timeout`` if None.
    :param blocking: whether it is a server that runs until the site stops.
    :param name: its name in the log; `name_of` the callback if None.
    :param order: its place among equal priorities; the next number if None.
    :raises BadPriority: if priority or timeout is not a number.
    """

    __slots__ = (
        'args_key',
        'blocking',
        'call',
        'callback',
        'moved',
        'name',
        'order',
        'priority',
        'timeout',
    )

    def __init__(
        self,
        callback: Callable[..., Any],
        args: tuple[Any, ...] = (),
        priority: float | None = None,
        timeout: float | None = None,
        blocking: bool = False,
        *,
        name: str | None = None,
        order: int | None = None,
    ) -> None:
        self.callback = callback
        #: The ids of the arguments, which distinguish two subscriptions of one callback.
        self.args_key = tuple(map(id, args))
        self.call = functools.partial(callback, *args) if args else callback
        self.name = name or name_of(callback)
        if priority is None:
            priority = getattr(callback, 'priority', DEFAULT_PRIORITY)
            if not isinstance(priority, (int, float)):
                priority = DEFAULT_PRIORITY  # the attribute means something else
        self.priority = _number('priority', priority, self.name)
        if timeout is None and hasattr(callback, '__code__'):
            # Only functions and methods: the ``timeout`` of a server means something else.
            timeout = getattr(callback, 'timeout', None)
        self.timeout = (
            None if timeout is None else _number('timeout', timeout, self.name)
        )
        self.blocking = blocking or getattr(callback, 'blocking', False) is True
        self.order = next(_order) if order is None else order
        #: The place that needs have given it; None if it has its own. See `bus.needs`.
        self.moved: tuple[float, ...] | None = None

    @property
    def place(self) -> tuple[float, ...]:
        """The place in the order of 'start': the priority, then the order of subscription."""
        return self.moved or (self.priority, self.order)

    @property
    def stop_place(self) -> tuple[float, ...]:
        """The place on a channel where the last subscribed listener is called first.

        The infinity lets what stands behind another one at the start come before it here.
        """
        return self.moved or (self.priority, -self.order, float('inf'))

    @property
    def owner(self) -> object:
        """The object that the callback belongs to, such as the plugin for its method."""
        owner = getattr(self.callback, '__self__', self.callback)
        # A builtin function has its module there, which is not a plugin.
        return self.callback if isinstance(owner, ModuleType) else owner


def _number(what: str, value: object, name: str) -> float:
    # NaN (the only number that differs from itself) has no place in an order.
    if not isinstance(value, (int, float)) or value != value:
        raise BadPriority(what, value, name)
    return value


def name_of(callback: object) -> str:
    """Return the name of a callback for log lines: ``module.Class.method``."""
    if isinstance(callback, functools.partial):
        return name_of(callback.func)
    bound = getattr(callback, '__self__', None)
    kind: Any
    if (
        bound is not None
        and not isinstance(bound, type)
        and hasattr(callback, '__func__')
    ):
        kind, method = type(bound), f'.{getattr(callback, "__name__", "?")}'
    elif hasattr(callback, '__qualname__'):
        kind, method = callback, ''
    else:
        kind, method = type(callback), ''
    module = getattr(kind, '__module__', None)
    name = f'{kind.__qualname__}{method}'
    return name if module in (None, 'builtins', '__main__') else f'{module}.{name}'


def call_next(
    owners: deque[Any], method: str, results: list[Any], *args: Any, **kwargs: Any
) -> None:
    """Take the first of ``owners`` out of the deque, and call one of its methods.

    If this raises an exception, ``owners`` still has the owner if the method has not begun,
    and ``results`` has its result if it has returned, also if a signal handler has raised.

    CPython runs signal handlers at the beginning of a function, after the call of a
    function written in C, and at a jump backward. So none runs inside ``extend``, which
    takes the owner out, calls the method, and appends the result. If one runs at the
    beginning of the method, before its first step, the traceback shows that.
    """
    owner = owners[0]
    try:
        taken = map(methodcaller('popleft'), (owners,))
        results.extend(map(methodcaller(method, *args, **kwargs), taken))
    except BaseException as error:
        if _has_not_begun(error.__traceback__):
            owners.appendleft(owner)
        raise


def _has_not_begun(traceback: TracebackType | None) -> bool:
    """Whether the function that the first function of a traceback called has made no step."""
    called = traceback and traceback.tb_next
    if not called:
        return False
    code, at = called.tb_frame.f_code.co_code, called.tb_lasti
    return code[at] == _RESUME and not code[at + 1] & 3


class Order:
    """The listeners of a channel in the order of their calls, after they were sorted.

    ``listeners`` are the Listeners; None until they are sorted. ``calls`` are only their
    callables, which `Bus.publish` calls; None until then, and on state channels.
    """

    __slots__ = ('calls', 'listeners')

    def __init__(self) -> None:
        self.calls: tuple[Callable[..., Any], ...] | None = None
        self.listeners: tuple[Listener, ...] | None = None


class Channel(set):  # type: ignore[type-arg]
    """The callbacks of one channel.

    It is a set of callables, because code written for CherryPy expects one in
    ``bus.listeners[channel]``. Beside the set it keeps the order of the calls.

    Why publishing needs no lock. Signal handlers and forked children publish, and they
    must not wait for a thread that subscribes (in a forked child, that thread does not
    even exist). The first publish after a change sorts the listeners, so that n
    subscriptions cost one sort and not n. A change is written to ``_listeners`` first,
    and then an empty `Order` is put into ``order``. A thread that sorts takes the empty
    Order first, then copies the listeners (one step of the interpreter), and then fills
    the Order that it took. If a change comes in between, the thread fills an Order that
    is not in ``order`` any more. So the Order in ``order`` never lacks a listener whose
    `subscribe` has returned, and an Order never changes while its listeners are called.

    :param name: such as 'start'.
    :param callbacks: are subscribed in this order.
    """

    def __init__(self, name: str, callbacks: Iterable[Callable[..., Any]] = ()) -> None:
        super().__init__()
        self.name = name
        self.order = Order()
        self._listeners: dict[tuple[object, ...], Listener] = {}
        #: For each callback, its keys in ``_listeners``.
        self._keys: dict[object, dict[tuple[object, ...], None]] = {}
        self._lock = threading.RLock()
        for callback in callbacks:
            self.add(callback)

    def subscribe(self, listener: Listener) -> None:
        """Add a listener. If it is subscribed already, it keeps its place in the order.

        :raises NotCallable: if its callback is not callable.
        """
        if not callable(listener.callback):
            raise NotCallable(self.name, listener.callback)
        key = (listener.callback, *listener.args_key)
        with self._lock:
            old = self._listeners.get(key)
            if old is not None:
                listener.order = old.order
            self._keys.setdefault(listener.callback, {})[key] = None
            self._listeners[key] = listener
            super().add(listener.callback)
            self.order = Order()

    def unsubscribe(self, callback: object) -> None:
        """Remove all listeners of this callback; do nothing if there are none."""
        with self._lock:
            for key in self._keys.pop(callback, ()):
                self._listeners.pop(key, None)
            super().discard(callback)
            self.order = Order()

    @property
    def ordered(self) -> tuple[Listener, ...]:
        """The listeners in the order of their calls."""
        order = self.order
        if order.listeners is None:
            order = self.work_out()
        return order.listeners or ()

    def work_out(self) -> Order:
        """Sort the listeners, and return the order of their calls."""
        order = self.order
        is_reversed = self.name in REVERSED_CHANNELS
        place = attrgetter('stop_place' if is_reversed else 'place')
        listeners = tuple(sorted(list(self._listeners.values()), key=place))
        if self.name not in STATE_CHANNELS:
            order.calls = tuple([listener.call for listener in listeners])
        order.listeners = listeners
        return order

    # These are the methods of a set, which code written for CherryPy calls.

    def add(self, callback: Callable[..., Any]) -> None:
        """Subscribe a callback with its own priority, if it is not subscribed."""
        if callback not in self:
            self.subscribe(Listener(callback))

    def discard(self, callback: object) -> None:
        """Unsubscribe a callback; do nothing if it is not subscribed."""
        self.unsubscribe(callback)

    def remove(self, callback: object) -> None:
        """Unsubscribe a callback.

        :raises KeyError: if it is not subscribed.
        """
        if callback not in self:
            raise KeyError(callback)
        self.unsubscribe(callback)

    def clear(self) -> None:
        """Unsubscribe all callbacks."""
        self._become(set())

    def pop(self) -> Any:
        """Unsubscribe one of the callbacks, and return it.

        :raises KeyError: if there is none.
        """
        callback = super().pop()
        self.unsubscribe(callback)
        return callback

    def _become(self, callbacks: set[Any]) -> Channel:
        for callback in set(self) - callbacks:
            self.unsubscribe(callback)
        for callback in callbacks - set(self):
            self.add(callback)
        return self

    def update(self, *others: Iterable[Any]) -> None:
        """Subscribe all these callbacks."""
        self._become(set(self).union(*others))

    def difference_update(self, *others: Iterable[Any]) -> None:
        """Unsubscribe all these callbacks."""
        self._become(set(self).difference(*others))

    def intersection_update(self, *others: Iterable[Any]) -> None:
        """Unsubscribe all other callbacks."""
        self._become(set(self).intersection(*others))

    def symmetric_difference_update(self, other: Iterable[Any]) -> None:
        """Subscribe the callbacks that are not subscribed, unsubscribe the others."""
        self._become(set(self).symmetric_difference(other))

    def __ior__(self, other: Any) -> Channel:  # type: ignore[misc]
        return self._become(set(self) | other)

    def __isub__(self, other: Any) -> Channel:  # type: ignore[misc]
        return self._become(set(self) - other)

    def __iand__(self, other: Any) -> Channel:  # type: ignore[misc]
        return self._become(set(self) & other)

    def __ixor__(self, other: Any) -> Channel:  # type: ignore[misc]
        return self._become(set(self) ^ other)


def is_priority(value: object) -> bool:
    """Whether a value is a priority as CherryPy passes it: a number or None."""
    return value is None or (
        isinstance(value, (int, float)) and not isinstance(value, bool)
    )
