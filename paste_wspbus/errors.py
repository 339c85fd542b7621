"""Every error this package raises on purpose; each carries its data."""

from __future__ import annotations


class WSPBusError(Exception):
    """The base of them all: the command line catches it, prints one line and exits.

    ``exit_code`` is what the command exits with: 1, the site failed to start
    or stopped with failures; 2, wrong usage or configuration.
    """

    exit_code = 1


class IllegalTransition(WSPBusError):
    """The bus was asked for a move that its table of transitions does not have."""

    def __init__(self, old: object, new: object) -> None:
        super().__init__(f'The bus cannot go from {old!r} to {new!r}')
        self.old, self.new = old, new


class NotCallable(WSPBusError, TypeError):
    """Something that cannot be called was subscribed to a channel."""

    def __init__(self, channel: str, callback: object) -> None:
        super().__init__(f'The {channel!r} channel takes callables, not {callback!r}')
        self.channel, self.callback = channel, callback


class BadPriority(WSPBusError, TypeError):
    """A listener's priority or timeout is not a number."""

    def __init__(self, what: str, value: object, name: str) -> None:
        super().__init__(f'The {what} of {name} must be a number, not {value!r}')
        self.what, self.value, self.name = what, value, name


class LifespanRefused(WSPBusError):
    """A lifespan came while the bus was stopping: it would never be stopped."""

    def __init__(self, name: str, state: object) -> None:
        super().__init__(f'Lifespan {name} was refused: the bus is {state!r}')
        self.name, self.state = name, state


class NameTaken(WSPBusError, ValueError):
    """Two lifespans ask for the same place in ``bus.resources``."""

    def __init__(self, name: str) -> None:
        super().__init__(f'There is a lifespan named {name!r} already')
        self.name = name


class TimedOut(WSPBusError):
    """A listener took longer than its timeout (seconds)."""

    def __init__(self, channel: str, name: str, seconds: float) -> None:
        super().__init__(f'{channel!r} listener {name} took longer than {seconds:g} s')
        self.channel, self.name, self.seconds = channel, name, seconds


class WouldDeadlock(WSPBusError):
    """A listener waits for a state that cannot come before it returns."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f'{what} inside a listener of a transition would wait for itself'
        )
        self.what = what


class RestartImpossible(WSPBusError):
    """The process cannot be replaced by a new one; nothing was stopped."""

    def __init__(self, reason: str) -> None:
        super().__init__(f'Restart refused, the site goes on: {reason}')
        self.reason = reason


class PluginError(WSPBusError):
    """A plugin class names a channel that does not exist."""

    exit_code = 2

    def __init__(self, plugin: str, channel: str, nearest: str | None) -> None:
        hint = f'; did you mean {nearest!r}?' if nearest else ''
        super().__init__(f'{plugin} listens on unknown channel {channel!r}{hint}')
        self.plugin, self.channel, self.nearest = plugin, channel, nearest


class UsageError(WSPBusError):
    """The command line is wrong."""

    exit_code = 2


class ConfigError(WSPBusError):
    """The .ini is wrong: names the file, the section, the key and what would be right.

    ``section`` and ``key`` are None where the whole file is meant.
    """

    exit_code = 2

    def __init__(
        self,
        file: str | None,
        problem: str,
        *,
        section: str | None = None,
        key: str | None = None,
    ) -> None:
        where = file or ''
        if section:
            where += f' [{section}]'
        if key:
            where += f' {key}'
        super().__init__(f'{where.strip()}: {problem}' if where else problem)
        self.file, self.section, self.key, self.problem = file, section, key, problem


class FactoryError(ConfigError):
    """A factory that a section names raised, exited, or returned nothing useful."""

    exit_code = 1


class BindError(WSPBusError):
    """A listening socket cannot be had: ``address`` as text and the system's reason.

    ``place``: the file and section that ask for it, if they are known.
    """

    def __init__(self, address: str, reason: str, place: str = '') -> None:
        prefix = f'{place}: ' if place else ''
        super().__init__(f'{prefix}cannot listen on {address}: {reason}')
        self.address, self.reason, self.place = address, reason, place


class SettingError(WSPBusError):
    """A setting is wrong; whoever knows its file and section makes a ConfigError of it."""

    exit_code = 2

    def __init__(self, key: str | None, problem: str) -> None:
        super().__init__(f'{key}: {problem}' if key else problem)
        self.key, self.problem = key, problem
