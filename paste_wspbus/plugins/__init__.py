"""The base class of plugins, and the decorator by which a plugin names its channels."""

from __future__ import annotations

from paste_wspbus.errors import PluginError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeVar

    from paste_wspbus.bus import Bus

    F = TypeVar('F', bound='Callable[..., Any]')

#: The channels of this package, and those of CherryPy for threads and requests.
CHANNELS = frozenset(
    [
        'start',
        'drain',
        'stop',
        'exit',
        'graceful',
        'restart',
        'reload_failed',
        'missed',
        'log',
        'main',
        'reopen_logs',
        'status',
        'watch',
        'start_thread',
        'stop_thread',
        'acquire_thread',
        'release_thread',
        'before_request',
        'after_request',
    ]
)


def on(
    channel: str, *, priority: float | None = None, remote: bool = False
) -> Callable[[F], F]:
    """Mark a plugin's method as a listener of ``channel``.

    :param channel: such as 'start'; `Plugin.subscribe` checks that it exists.
    :param priority: a lower one is called earlier; 50 if None.
    :param remote: whether the channel hears messages from other processes of the site
        (`Bus.accept`). This makes it a channel that exists.
    :returns: a decorator.
    """

    def mark(method: F) -> F:
        method.wspbus_channels = (  # type: ignore[attr-defined]
            *getattr(method, 'wspbus_channels', ()),
            (channel, priority),
        )
        if remote:
            known = getattr(method, 'wspbus_remote', ())
            method.wspbus_remote = (*known, channel)  # type: ignore[attr-defined]
        return method

    return mark


class Plugin:
    """The base class of plugins: `subscribe` subscribes the methods that `on` has marked.

    ``channels`` has the names of channels that the plugin itself publishes.

    :param bus: the bus of the plugin.
    """

    channels: tuple[str, ...] = ()

    def __init__(self, bus: Bus) -> None:
        self.bus = bus

    def subscribe(self) -> None:
        """Subscribe all marked methods.

        If it raises an error, nothing is subscribed.

        :raises PluginError: if a method names a channel that does not exist.
        :raises ValueError: if a method lets messages from other processes into a channel
            of the bus itself.
        """
        remote = self._remote_channels()
        known = CHANNELS | set(self.channels) | set(self.bus.listeners) | remote
        listeners = list(self._listeners())
        for channel, method, _ in listeners:
            if channel not in known:
                from paste_wspbus.values import closest  # only this error needs it

                name = f'{type(self).__qualname__}.{method.__name__}'
                code = getattr(method, '__code__', None)
                place = f'{code.co_filename}:{code.co_firstlineno}' if code else ''
                raise PluginError(name, channel, closest(channel, known), place)
        if remote:
            self.bus.accept(*remote)
        for channel, method, priority in listeners:
            self.bus.subscribe(channel, method, priority=priority)

    def unsubscribe(self) -> None:
        """Unsubscribe all marked methods."""
        for channel, method, _ in self._listeners():
            self.bus.unsubscribe(channel, method)

    def _listeners(self) -> Iterator[tuple[str, Callable[..., Any], float | None]]:
        for name in dir(type(self)):
            for channel, priority in self._channels_of(name):
                yield channel, getattr(self, name), priority

    def _channels_of(self, name: str) -> tuple[tuple[str, float | None], ...]:
        """Return the channels of a method, or of the method that it overrides."""
        return getattr(self._marked(name), 'wspbus_channels', ())

    def _remote_channels(self) -> set[str]:
        """Return the channels that hear messages from other processes."""
        names = dir(type(self))
        found = (getattr(self._marked(one), 'wspbus_remote', ()) for one in names)
        return {channel for channels in found for channel in channels}

    def _marked(self, name: str) -> object:
        """Return a method of this name that `on` has marked; None if there is none."""
        for cls in type(self).__mro__:
            method = vars(cls).get(name)
            if getattr(method, 'wspbus_channels', ()):
                return method
        return None
