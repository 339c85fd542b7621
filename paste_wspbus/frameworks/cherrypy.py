"""CherryPy: ``cherrypy.engine`` is the bus, and the old engine becomes another name of it."""

from __future__ import annotations

import atexit
import contextlib
import functools
import inspect
import logging
import signal
import sys
from typing import Any, NamedTuple

from paste_wspbus.bus.channels import Channel, name_of
from paste_wspbus.frameworks.guests import Taken, log
from paste_wspbus.plugins import Plugin, on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from paste_wspbus.bus import Bus
    from paste_wspbus.bus.channels import Listener


PLUGIN = 'cherrypy.engine'

#: The attributes that remain in the engine. The bus gets all others.
INTERNALS = ('listeners', '_priorities', 'state', 'execv')

#: From a plugin of the engine to the plugin of the bus that replaces it. None stands for a
#: plugin that something else replaces.
PLUGINS = {
    'autoreload': None,
    'thread_manager': 'threads',
    'signal_handler': 'signals',
    'console_control_handler': None,
}

#: The filter publishes these with environ, for each request of the site; CherryPy
#: publishes them without arguments, for its own requests.
REQUEST_CHANNELS = ('before_request', 'after_request')

STARTED_EARLY = (
    'CherryPy: the engine was started while the site was loaded. It was stopped, and '
    'starts with the site'
)

#: The channels for which a method of the old engine asks the bus for a transition.
TRANSITIONS = ('start', 'stop', 'exit', 'graceful')


def give(app: Any, bus: Bus) -> bool:
    """Make the bus ``cherrypy.engine``, of which CherryPy has one in the whole process.

    :returns: False if ``app`` is not an application of CherryPy.
    :raises Taken: if the site has an engine of its own there.
    """
    from cherrypy import Application, tree, wsgi

    kinds = (Application, type(tree), wsgi.CPWSGIApp, wsgi.VirtualHost)
    if not issubclass(type(app), kinds):
        return False
    replace_engine(bus)
    return True


def replace_engine(bus: Bus) -> None:
    """Make ``bus`` CherryPy's engine, until its exit.

    The listeners of the engine are subscribed to the bus, except those of CherryPy's own
    HTTP server, autoreloader, thread manager and signal handler. If code has a reference
    to the old engine, this reference leads to the bus. The search for frameworks calls
    this for a site that has a CherryPy application; a site may call it first.

    :raises Taken: if ``cherrypy.engine`` is an object of the site.
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
    """One listener of CherryPy's engine."""

    channel: str
    callback: Callable[..., Any]
    priority: float

    def code(self) -> object:
        """Return a key that is equal for two subscriptions by the same lines of code."""
        function = getattr(self.callback, '__func__', self.callback)
        return self.channel, getattr(function, '__code__', self.callback)


class Bridge(Plugin):
    """The plugin that makes a bus CherryPy's engine: ``bus.plugins['cherrypy.engine']``."""

    #: The Bridge of the bus that is the engine now: a process has one engine.
    current: Bridge | None = None

    #: The subscriptions of all sites to the engine. They are kept for the next bus, because
    #: a module that is imported already does not subscribe its functions again.
    subscribed: tuple[Subscription, ...] = ()

    #: Whether CherryPy has printed log lines by itself.
    _printed = False

    @on('start', priority=float('-inf'))
    def take(self) -> None:
        """Put the bus in the place of the engine, unless it is there already.

        :raises Taken: if the engine is an object of the site.
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
        self._log_once()
        self._hand_over_attributes()
        self._hand_over_listeners()
        _rename(engine, self.bus)
        _follow(engine, self.bus)
        Bridge.current = self

    @on('exit', priority=float('inf'))
    def give_back(self) -> None:
        """Put CherryPy's own engine back, without listeners, which remain on the bus."""
        if Bridge.current is not self:
            return
        Bridge.current = None
        engine = self.engine
        object.__setattr__(engine, '__class__', self._kind)
        engine.listeners = {channel: set() for channel in self.bus.listeners}
        engine._priorities = {}
        if self._printed:
            sys.modules['cherrypy'].log.screen = True
        atexit.unregister(engine._clean_exit)  # registered if the site has started it
        _rename(self.bus, engine)

    def _silence(self) -> None:
        """Stop the engine, if the site has started it, and unsubscribe CherryPy's own plugins."""
        import cherrypy

        engine, bus = self.engine, self.bus
        if engine.state not in (engine.states.STOPPED, engine.states.EXITING):
            log(STARTED_EARLY, level=logging.INFO)
            with contextlib.suppress(Exception):  # CherryPy's log has each error
                engine.stop()
        cherrypy.server.unsubscribe()
        for name, ours in PLUGINS.items():
            if hasattr(engine, name) and (ours is None or ours in bus.plugins):
                getattr(engine, name).unsubscribe()

    def _log_once(self) -> None:
        """Remove the handlers that CherryPy has by default, unless the site wants them.

        The handlers of the root logger get the same lines. They may lead to the same
        terminal.
        """
        import cherrypy

        is_default = 'log.screen' not in cherrypy.config
        if is_default and cherrypy.log.screen and logging.root.handlers:
            cherrypy.log.screen = False
            self._printed = True

    def _hand_over_attributes(self) -> None:
        """Give the bus attributes such as ``engine.autoreload``, which CherryPy's config uses."""
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
        # Also add channels without listeners: SimplePlugin looks for methods of their names.
        for channel in engine.listeners:
            bus.listeners.setdefault(channel, set())
        for channel, callback, priority in Bridge.subscribed:
            if getattr(callback, '__self__', None) is engine:
                callback = getattr(bus, callback.__name__)
            bus.subscribe(channel, callback, priority=priority)
            if is_signal(channel) and 'signals' in bus.plugins:
                bus.plugins['signals'].handlers.setdefault(channel, channel)

    def _is_replaced(self, channel: str, callback: Any) -> bool:
        """Whether the bus has its own listener in the place of this one of CherryPy."""
        if name_of(callback) == 'cherrypy._buslog':
            return 'sitelog' in self.bus.plugins
        owners = self.engine, getattr(self.engine, 'signal_handler', self.engine)
        owner = getattr(callback, '__self__', None)
        return is_signal(channel) and any(owner is one for one in owners)


def is_signal(channel: str) -> bool:
    """Whether the channel has the name of a signal, as the engine's channels for signals."""
    return channel in signal.Signals.__members__


def _rename(old: Any, new: Any) -> None:
    """Set every name that CherryPy has for its bus from ``old`` to ``new``."""
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
    """The priorities of an engine that has become a name of the bus, for its old methods."""

    def __missing__(self, place: tuple[str, Any]) -> float:
        return getattr(place[1], 'priority', 50)

    def __delitem__(self, place: tuple[str, Any]) -> None:
        self.pop(place, None)


def _follow(engine: Any, bus: Bus) -> None:
    """Make ``engine`` another name of ``bus``, for code that has a reference to it.

    Code may also have kept a method of the engine (``atexit.register(engine.stop)``).
    Such a method sets a state, logs that, and publishes. Here, the publishing becomes a
    transition of the bus; setting the state and logging do nothing.
    """

    def log(msg: str = '', level: int = 20, traceback: bool = False) -> None:
        if not msg.startswith('Bus '):  # the bus logs these itself
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
    """'before_request' or 'after_request', which both the filter and CherryPy publish.

    The filter publishes them with environ, for each request of the site. CherryPy
    publishes them without arguments, for its own requests, when ``cherrypy.request``
    exists. A listener is called by the publisher whose arguments it takes, and only by
    the filter if it takes both.
    """

    def subscribe(self, listener: Listener) -> None:
        """Add a listener; only the publisher whose arguments it takes calls it."""
        listener.call = _called_by_one(listener.call)
        super().subscribe(listener)


def _called_by_one(call: Callable[..., Any]) -> Callable[..., Any]:
    with_environ = True
    with contextlib.suppress(ValueError):  # a builtin function without a signature
        try:
            inspect.signature(call).bind({})
        except TypeError:
            with_environ = False

    @functools.wraps(call)
    def heard(*args: Any) -> Any:
        return call(*args) if bool(args) is with_environ else None

    return heard


def _separate(bus: Bus, name: str) -> None:
    channel = bus.channel(name)
    if not isinstance(channel, RequestChannel):
        separate = RequestChannel(name)
        for listener in channel.ordered:
            separate.subscribe(listener)
        bus.listeners[name] = separate


def show_routes(app: Any) -> Any:
    """Return what finds the page handler of a request, as 'shop.root:Root.item'.

    :returns: False if ``app`` is not an application of CherryPy.
    """
    from cherrypy import Application, tree, wsgi

    kinds = (Application, type(tree), wsgi.CPWSGIApp, wsgi.VirtualHost)
    return _handler if issubclass(type(app), kinds) else False


def _handler(environ: dict[str, Any], status: str) -> str | None:
    from cherrypy import serving

    from paste_wspbus.frameworks.routes import ROUTE_KEY, name_of

    request = serving.request  # that of this thread
    own = getattr(request, 'wsgi_environ', {}).get(ROUTE_KEY)
    if own is None or own is not environ.get(ROUTE_KEY):
        return None
    handler = getattr(request, '_json_inner_handler', request.handler)  # of json_out
    while (inside := getattr(handler, 'oldhandler', None)) is not None:
        handler = inside  # a tool such as ``encode`` has put itself before it
    return name_of(getattr(handler, 'callable', None))
