"""CherryPy: ``cherrypy.engine`` is the bus, and who holds on to the old engine follows it."""

from __future__ import annotations

import atexit
import contextlib
import functools
import inspect
import logging
import signal
from typing import Any, NamedTuple

from paste_wspbus.channels import Channel, name_of
from paste_wspbus.frameworks.guests import Taken, log
from paste_wspbus.plugins import Plugin, on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from paste_wspbus.bus import Bus
    from paste_wspbus.channels import Listener


PLUGIN = 'cherrypy.engine'

#: What an engine keeps for itself; its other attributes are the bus's, too.
INTERNALS = ('listeners', '_priorities', 'state', 'execv')

#: Plugins of an engine, and where the bus has its own; None: it has one elsewhere.
PLUGINS = {
    'autoreload': None,
    'thread_manager': 'threads',
    'signal_handler': 'signals',
    'console_control_handler': None,
}

#: What the filter publishes with environ, for each request of the site, and CherryPy
#: without, for its own.
REQUEST_CHANNELS = ('before_request', 'after_request')

STARTED_EARLY = (
    'CherryPy: the engine was started while the site was composed; it is stopped, and '
    'starts with the site'
)

#: What publishing means to the methods of an engine that somebody kept.
TRANSITIONS = ('start', 'stop', 'exit', 'graceful')


def give(app: Any, bus: Bus) -> bool:
    """``cherrypy.engine``: CherryPy has one for the whole process."""
    from cherrypy import Application, tree, wsgi

    kinds = (Application, type(tree), wsgi.CPWSGIApp, wsgi.VirtualHost)
    if not issubclass(type(app), kinds):
        return False
    replace_engine(bus)
    return True


def replace_engine(bus: Bus) -> None:
    """Make ``bus`` CherryPy's engine, until its exit.

    What was subscribed to the engine is subscribed to the bus, but for
    CherryPy's own HTTP server, autoreloader, thread manager and signal
    handler. Whoever holds on to the old engine holds on to the bus by another
    name. The search for frameworks calls this for a site that has a CherryPy
    application; a site may call it first.

    :raises Taken: if ``cherrypy.engine`` is something of the site's own.
    """
    import cherrypy

    if cherrypy.engine is not bus:
        bridge = bus.plugins.get(PLUGIN) or Bridge(bus)
        bridge.take()
        bridge.subscribe()
        bus.plugins[PLUGIN] = bridge
    for name in REQUEST_CHANNELS:
        _separate(bus, name)


class Subscription(NamedTuple):
    """Of a listener to CherryPy's engine."""

    channel: str
    callback: Callable[..., Any]
    priority: float

    def code(self) -> object:
        """What it has in common with one that the same lines subscribed before."""
        function = getattr(self.callback, '__func__', self.callback)
        return self.channel, getattr(function, '__code__', self.callback)


class Bridge(Plugin):
    """CherryPy's engine, while it follows a bus: ``bus.plugins['cherrypy.engine']``."""

    #: The one that follows: there is one engine in a process.
    current: Bridge | None = None

    #: What all sites have subscribed to the engine. A module that is imported already
    #: does not subscribe its functions again for the next bus.
    subscribed: tuple[Subscription, ...] = ()

    @on('start', priority=float('-inf'))
    def take(self) -> None:
        """Put the bus in the engine's place, unless it is there.

        :raises Taken: if the engine is something of the site's own.
        """
        import cherrypy

        if Bridge.current is self:
            return
        if Bridge.current is not None:
            Bridge.current.give_back()
        engine = cherrypy.engine
        if not isinstance(engine, cherrypy.process.wspbus.Bus):
            raise Taken('cherrypy.engine')
        self.engine = engine
        self._kind: type = type(engine)
        self._silence()
        self._hand_over_attributes()
        self._hand_over_listeners()
        _rename(engine, self.bus)
        _follow(engine, self.bus)
        Bridge.current = self

    @on('exit', priority=float('inf'))
    def give_back(self) -> None:
        """CherryPy's own engine is there again; what was subscribed is the bus's."""
        if Bridge.current is not self:
            return
        Bridge.current = None
        engine = self.engine
        object.__setattr__(engine, '__class__', self._kind)
        engine.listeners = {channel: set() for channel in self.bus.listeners}
        engine._priorities = {}
        atexit.unregister(engine._clean_exit)  # of an engine that the site has started
        _rename(self.bus, engine)

    def _silence(self) -> None:
        """Stop the engine, if the site has started it, and unsubscribe CherryPy's own plugins."""
        import cherrypy

        engine, bus = self.engine, self.bus
        if engine.state not in (engine.states.STOPPED, engine.states.EXITING):
            log(STARTED_EARLY, level=logging.INFO)
            with contextlib.suppress(Exception):  # it is in CherryPy's log
                engine.stop()
        cherrypy.server.unsubscribe()
        for name, ours in PLUGINS.items():
            if hasattr(engine, name) and (ours is None or ours in bus.plugins):
                getattr(engine, name).unsubscribe()

    def _hand_over_attributes(self) -> None:
        """``engine.autoreload`` and the like; configuration looks for them there."""
        for name, value in vars(self.engine).items():
            if name not in INTERNALS and not hasattr(self.bus, name):
                ours = PLUGINS.get(name) or ''
                setattr(self.bus, name, self.bus.plugins.get(ours, value))

    def _hand_over_listeners(self) -> None:
        engine, bus = self.engine, self.bus
        new = [
            Subscription(channel, callback, priority)
            for (channel, callback), priority in engine._priorities.items()
            if not self._is_replaced(channel, callback)
        ]
        codes = {one.code() for one in new}
        known = [one for one in Bridge.subscribed if one.code() not in codes]
        Bridge.subscribed = (*known, *new)
        # Empty ones, too: SimplePlugin looks for methods of their names.
        for channel in engine.listeners:
            bus.listeners.setdefault(channel, set())
        for channel, callback, priority in Bridge.subscribed:
            if getattr(callback, '__self__', None) is engine:
                callback = getattr(bus, callback.__name__)
            bus.subscribe(channel, callback, priority=priority)
            if is_signal(channel) and 'signals' in bus.plugins:
                bus.plugins['signals'].handlers.setdefault(channel, channel)

    def _is_replaced(self, channel: str, callback: Any) -> bool:
        """Whether it is a listener of CherryPy's that the bus has its own for."""
        if name_of(callback) == 'cherrypy._buslog':
            return 'sitelog' in self.bus.plugins
        owners = self.engine, getattr(self.engine, 'signal_handler', self.engine)
        owner = getattr(callback, '__self__', None)
        return is_signal(channel) and any(owner is one for one in owners)


def is_signal(channel: str) -> bool:
    """Whether it is the channel of a signal: engines name them so."""
    return channel in signal.Signals.__members__


def _rename(old: Any, new: Any) -> None:
    """Have every name that CherryPy has for its bus mean another."""
    import cherrypy

    for place, name in (
        (cherrypy, 'engine'),
        (cherrypy.process, 'bus'),
        (cherrypy.process.wspbus, 'bus'),
    ):
        if getattr(place, name) is old:
            setattr(place, name, new)


# -- the old engine ----------------------------------------------------------------


class _Priorities(dict):  # type: ignore[type-arg]
    """Of an engine that follows: for its own methods, of which somebody kept one."""

    def __missing__(self, place: tuple[str, Any]) -> float:
        return getattr(place[1], 'priority', 50)

    def __delitem__(self, place: tuple[str, Any]) -> None:
        self.pop(place, None)


def _follow(engine: Any, bus: Bus) -> None:
    """Make ``engine`` another name of ``bus``, for whoever has it already.

    A method of it that somebody kept (``atexit.register(engine.stop)``) finds
    itself on the bus, too: it sets a state, says so and publishes, which
    together is a transition.
    """

    def log(msg: str = '', level: int = 20, traceback: bool = False) -> None:
        if not msg.startswith('Bus '):  # the bus says that by itself
            bus.log(msg, level, traceback)

    def publish(channel: str, *args: Any, **kwargs: Any) -> Any:
        if channel in TRANSITIONS:
            return getattr(bus, channel)()
        return bus.publish(channel, *args, **kwargs)

    def get(self: Any, name: str) -> Any:
        if name in own:
            return own[name]
        if not name.startswith('__'):
            with contextlib.suppress(AttributeError):
                return getattr(bus, name)
        return object.__getattribute__(self, name)

    def set(self: Any, name: str, value: Any) -> None:
        if name != 'state':
            setattr(bus, name, value)

    def delete(self: Any, name: str) -> None:
        delattr(bus, name)

    own = {'log': log, 'publish': publish}
    kind = type(engine)
    methods = {
        '__getattribute__': get,
        '__setattr__': set,
        '__delattr__': delete,
        '__module__': kind.__module__,
    }
    engine._priorities = _Priorities()
    engine.__class__ = type(kind.__name__, (kind,), methods)


# -- requests ----------------------------------------------------------------------


class RequestChannel(Channel):
    """'before_request' or 'after_request' of a bus that CherryPy publishes on, too.

    The filter publishes them with environ, for each request of the site;
    CherryPy without, for its own, when ``cherrypy.request`` is there. A
    listener hears the one that it can be called by, and the filter alone if
    both can.
    """

    def subscribe(self, listener: Listener) -> None:
        """Add a listener, to be called by the publisher that it is for."""
        listener.call = _called_by_one(listener.call)
        super().subscribe(listener)


def _called_by_one(call: Callable[..., Any]) -> Callable[..., Any]:
    with_environ = True
    with contextlib.suppress(ValueError):  # a builtin that tells nothing
        try:
            inspect.signature(call).bind({})
        except TypeError:
            with_environ = False

    @functools.wraps(call)
    def heard(*args: Any) -> Any:
        return call(*args) if bool(args) is with_environ else None

    return heard


def _separate(bus: Bus, name: str) -> None:
    channel = bus._channel(name)
    if not isinstance(channel, RequestChannel):
        separate = RequestChannel(name)
        for listener in channel.ordered:
            separate.subscribe(listener)
        bus.listeners[name] = separate
