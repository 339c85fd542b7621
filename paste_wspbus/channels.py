"""A channel's listeners: who is subscribed, in which order they are called, how their failures are kept."""

from __future__ import annotations

import functools
import itertools
import sys
import threading
from types import ModuleType

from paste_wspbus.errors import BadPriority, NotCallable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

#: Channels whose listener calls are timed, recorded and bounded; the others are only called.
STATE_CHANNELS = frozenset({'start', 'drain', 'stop', 'exit', 'graceful', 'restart'})

#: On these, what started last is called first among equal priorities.
REVERSED_CHANNELS = frozenset({'stop', 'exit'})

DEFAULT_PRIORITY = 50

_order = itertools.count()


class ChannelFailures(Exception):
    """What the listeners of one publish raised.

    The API is `cherrypy.process.wspbus.ChannelFailures`'s: falsy when empty.
    """

    delimiter = '\n'
    #: Of a failed start: the name of the listener that failed.
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
        """Keep ``error``; of another ChannelFailures, what it kept."""
        if isinstance(error, ChannelFailures) and error:
            self._exceptions.extend(error.get_instances())
        else:
            self._exceptions.append(error)

    def get_instances(self) -> list[BaseException]:
        """The exceptions kept so far, in the order they were raised."""
        return self._exceptions[:]

    def group(self) -> BaseExceptionGroup[BaseException]:
        """The same as an ExceptionGroup, for ``except*``."""
        return BaseExceptionGroup('channel failures', self._exceptions)

    def __str__(self) -> str:
        return self.delimiter.join(map(repr, self._exceptions))

    __repr__ = __str__

    def __bool__(self) -> bool:
        return bool(self._exceptions)


class Listener:
    """One subscription: a callback, what it is called with, and when."""

    __slots__ = (
        'blocking',
        'call',
        'callback',
        'key',
        'name',
        'order',
        'priority',
        'timeout',
    )

    def __init__(
        self,
        callback: Callable[..., Any],
        args: tuple[Any, ...] = (),
        *,
        priority: float | None = None,
        timeout: float | None = None,
        blocking: bool = False,
        name: str | None = None,
        order: int | None = None,
    ) -> None:
        self.callback = callback
        self.key = (callback, *map(id, args))
        self.call = functools.partial(callback, *args) if args else callback
        self.name = name or name_of(callback)
        if priority is None:
            priority = getattr(callback, 'priority', DEFAULT_PRIORITY)
            if not isinstance(priority, (int, float)):
                priority = DEFAULT_PRIORITY  # the attribute is there for something else
        self.priority = _number('priority', priority, self.name)
        if timeout is None and hasattr(callback, '__code__'):
            # Of functions and methods only: a server object's ``timeout`` is its own.
            timeout = getattr(callback, 'timeout', None)
        self.timeout = (
            None if timeout is None else _number('timeout', timeout, self.name)
        )
        self.blocking = blocking or getattr(callback, 'blocking', False) is True
        self.order = next(_order) if order is None else order

    @property
    def owner(self) -> object:
        """The object that the callback belongs to: the plugin of a plugin's method."""
        owner = getattr(self.callback, '__self__', self.callback)
        # A builtin function's is its module, which is nobody's plugin.
        return self.callback if isinstance(owner, ModuleType) else owner


def _number(what: str, value: object, name: str) -> float:
    # NaN is the number that has no place in an order.
    if not isinstance(value, (int, float)) or value != value:
        raise BadPriority(what, value, name)
    return value


def name_of(callback: object) -> str:
    """What a log line calls this callback: ``module.Class.method``."""
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


class Channel(set):  # type: ignore[type-arg]
    """The callbacks of one channel.

    A set of callables, because that is what code written for CherryPy finds in
    ``bus.listeners[channel]``; beside it the order they are called in, rebuilt
    when somebody subscribes: ``ordered``, and ``calls``, the bare callables
    that `Bus.publish` walks (None on state channels, which it walks otherwise).
    """

    def __init__(self, name: str, callbacks: Iterable[Callable[..., Any]] = ()) -> None:
        super().__init__()
        self.name = name
        self.ordered: tuple[Listener, ...] = ()
        self.calls: tuple[Callable[..., Any], ...] | None = (
            None if name in STATE_CHANNELS else ()
        )
        self._listeners: dict[object, Listener] = {}
        self._lock = threading.RLock()
        self._change: object = None
        for callback in callbacks:
            self.add(callback)

    def subscribe(self, listener: Listener) -> None:
        """Add a listener; one that is there already keeps its place in the order."""
        if not callable(listener.callback):
            raise NotCallable(self.name, listener.callback)
        with self._lock:
            old = self._listeners.get(listener.key)
            if old is not None:
                listener.order = old.order
            self._listeners[listener.key] = listener
            super().add(listener.callback)
            self._rebuild()

    def unsubscribe(self, callback: object) -> None:
        """Remove every listener of this callback; nothing happens if there is none."""
        with self._lock:
            keys = [
                key
                for key, listener in list(self._listeners.items())
                if listener.callback == callback
            ]
            for key in keys:
                self._listeners.pop(key, None)
            super().discard(callback)
            self._rebuild()

    def _rebuild(self) -> None:
        # A signal handler may subscribe in the midst of this, in the same
        # thread, where the lock lets it in: then once more.
        sign = -1 if self.name in REVERSED_CHANNELS else 1
        while True:
            self._change = change = object()
            self.ordered = tuple(
                sorted(
                    list(self._listeners.values()),
                    key=lambda listener: (listener.priority, sign * listener.order),
                )
            )
            if self.calls is not None:
                self.calls = tuple([listener.call for listener in self.ordered])
            if self._change is change:
                return

    # What foreign code does to a set of listeners.

    def add(self, callback: Callable[..., Any]) -> None:
        """Subscribe with the callback's own priority."""
        if callback not in self:
            self.subscribe(Listener(callback))

    def discard(self, callback: object) -> None:
        """Unsubscribe."""
        self.unsubscribe(callback)

    def remove(self, callback: object) -> None:
        """Unsubscribe; KeyError if it is not there."""
        if callback not in self:
            raise KeyError(callback)
        self.unsubscribe(callback)

    def clear(self) -> None:
        """Unsubscribe all."""
        self._become(set())

    def pop(self) -> Any:
        """Unsubscribe any one, and return it; KeyError if there is none."""
        callback = next(iter(self), None)
        self.remove(callback)
        return callback

    def _become(self, callbacks: set[Any]) -> Channel:
        for callback in set(self) - callbacks:
            self.unsubscribe(callback)
        for callback in callbacks - set(self):
            self.add(callback)
        return self

    def update(self, *others: Iterable[Any]) -> None:
        """Subscribe all of them."""
        self._become(set(self).union(*others))

    def difference_update(self, *others: Iterable[Any]) -> None:
        """Unsubscribe all of them."""
        self._become(set(self).difference(*others))

    def intersection_update(self, *others: Iterable[Any]) -> None:
        """Unsubscribe all others."""
        self._become(set(self).intersection(*others))

    def symmetric_difference_update(self, other: Iterable[Any]) -> None:
        """Subscribe those that are not, unsubscribe those that are."""
        self._become(set(self).symmetric_difference(other))

    def __ior__(self, other: Any) -> Channel:  # type: ignore[misc]
        return self._become(set(self) | other)

    def __isub__(self, other: Any) -> Channel:  # type: ignore[misc]
        return self._become(set(self) - other)

    def __iand__(self, other: Any) -> Channel:  # type: ignore[misc]
        return self._become(set(self) & other)

    def __ixor__(self, other: Any) -> Channel:  # type: ignore[misc]
        return self._become(set(self) ^ other)
