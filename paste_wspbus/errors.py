"""The errors of the bus, of plugins and of configuration; each carries its data."""

from __future__ import annotations


class WSPBusError(Exception):
    """The base of all errors of this package.

    The command line catches it, prints one line and exits with ``exit_code``. This is
    `exits.FAILED` (1) or `exits.USAGE` (2). The numbers stand here because each run of
    pytest imports this module, and should not import another one.
    """

    exit_code = 1

    #: Whether the log has its traceback.
    is_logged = False

    #: Whether its own traceback is of use.
    has_frames = True

    #: The traceback that another process has reported.
    trace = ''


class IllegalTransition(WSPBusError):
    """The bus was asked for a move that is not in its table of transitions.

    ``old`` and ``new`` are the two states.
    """

    def __init__(self, old: object, new: object) -> None:
        super().__init__(f'The bus cannot go from {old!r} to {new!r}')
        self.old, self.new = old, new


class NotCallable(WSPBusError, TypeError):
    """An object that cannot be called was subscribed to a channel."""

    def __init__(self, channel: str, callback: object) -> None:
        super().__init__(f'The {channel!r} channel takes callables, not {callback!r}')
        self.channel, self.callback = channel, callback


class BadPriority(WSPBusError, TypeError):
    """The priority or the timeout (``what``) of a listener is not a number."""

    def __init__(self, what: str, value: object, name: str) -> None:
        super().__init__(f'The {what} of {name} must be a number, not {value!r}')
        self.what, self.value, self.name = what, value, name


class LifespanRefused(WSPBusError):
    """A lifespan was added while the bus was stopping: nothing would ever stop it."""

    def __init__(self, name: str, state: object) -> None:
        super().__init__(
            f'Lifespan {name} was refused: the bus is stopping or has stopped ({state!r})'
        )
        self.name, self.state = name, state


class NameTaken(WSPBusError, ValueError):
    """Two lifespans ask for the same name in ``bus.resources``."""

    def __init__(self, name: str) -> None:
        super().__init__(f'There is a lifespan named {name!r} already')
        self.name = name


class BadCheck(WSPBusError, ValueError):
    """A health check (``name``) cannot be added; ``problem`` says why."""

    def __init__(self, name: object, problem: str) -> None:
        super().__init__(f'Health check {name!r}: {problem}')
        self.name, self.problem = name, problem


class NeedError(WSPBusError, ValueError):
    """A part of the site (``name``) cannot have what it needs (``need``); ``why`` says why."""

    def __init__(self, name: str, need: str, why: str) -> None:
        super().__init__(f'{name} needs {need}: {why}')
        self.name, self.need, self.why = name, need, why


class TimedOut(WSPBusError):
    """A listener took longer than its time limit, ``seconds``."""

    def __init__(self, channel: str, name: str, seconds: float) -> None:
        super().__init__(f'{channel!r} listener {name} took longer than {seconds:g} s')
        self.channel, self.name, self.seconds = channel, name, seconds


class WouldDeadlock(WSPBusError):
    """A listener waits for a state that cannot come before the listener returns."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f'{what} was called by a listener of a transition, and would wait for the '
            'end of that transition'
        )
        self.what = what


class RestartImpossible(WSPBusError):
    """A new process cannot replace this one. Nothing was stopped."""

    def __init__(self, reason: str) -> None:
        super().__init__(f'Restart refused, the site keeps running: {reason}')
        self.reason = reason


class PluginError(WSPBusError):
    """A plugin class names a channel that does not exist.

    ``nearest`` is a channel with a similar name, or None. ``place`` is the file and line
    of the method, if they are known.
    """

    def __init__(
        self, plugin: str, channel: str, nearest: str | None, place: str = ''
    ) -> None:
        hint = (
            f'did you mean {nearest!r}?'
            if nearest
            else f"a channel of one's own is known by channels = ({channel!r},) in the class"
        )
        at = f', at {place}' if place else ''
        super().__init__(
            f'{plugin} listens on an unknown channel: {channel!r}{at}; {hint}'
        )
        self.plugin, self.channel, self.nearest = plugin, channel, nearest
        self.place = place


class UsageError(WSPBusError):
    """The command line is wrong."""

    exit_code = 2


class TooManyFiles(WSPBusError):
    """The process, or the system, has no more file descriptors."""

    def __init__(self, error: OSError) -> None:
        where = f' ({error.filename})' if error.filename else ''
        super().__init__(
            f'{(error.strerror or str(error)).lower()}{where}: raise the limit (ulimit -n)'
        )


class TooManyThreads(WSPBusError):
    """The system starts no more threads for this process."""

    def __init__(self) -> None:
        super().__init__(
            'the system starts no more threads: set a smaller number of threads, or raise '
            'the limits (ulimit -u, and ulimit -v if it is set)'
        )


class TooManyProcesses(WSPBusError):
    """The system starts no more processes for this user: fork(2), EAGAIN."""

    def __init__(self) -> None:
        super().__init__(
            'the system starts no more processes: raise the limit (ulimit -u, or TasksMax= '
            'of systemd)'
        )


def shortage(error: BaseException) -> WSPBusError | None:
    """Return the error that says what the process lacks: descriptors, threads or permissions.

    :returns: None if it lacks none of them.
    """
    if isinstance(error, ModuleNotFoundError):
        from paste_wspbus.unreadable import cannot_import

        return cannot_import(error)
    import errno  # each run of pytest imports this module, and does not need it

    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return TooManyFiles(error)
    # CPython has no class for this error (_threadmodule.c).
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return TooManyThreads()
    return None


class ConfigError(WSPBusError):
    """The .ini is wrong. The error names the file, section and key, and what would be right.

    ``section`` and ``key`` are None if the error is not about one section or key. The
    text has the number of a line if the file cannot be parsed.
    """

    exit_code = 2

    def __init__(
        self,
        file: str | None,
        problem: str,
        *,
        section: str | None = None,
        key: str | None = None,
        line: int | None = None,
    ) -> None:
        where = file or ''
        if line:
            where += f', line {line}'
        if section:
            where += f' [{section}]'
        if key:
            where += f' {key}'
        super().__init__(f'{where.strip()}: {problem}' if where else problem)
        self.file, self.section, self.key, self.problem = file, section, key, problem


class FactoryError(ConfigError):
    """The factory of a section has raised an error, has exited, or has returned no component."""

    exit_code = 1


class BindError(WSPBusError):
    """The system refuses a listening socket.

    ``address`` is a text. ``reason`` is the reason that the system gives. ``place`` is the
    file and section that name the address, if they are known.
    """

    def __init__(self, address: str, reason: str, place: str = '') -> None:
        prefix = f'{place}: ' if place else ''
        super().__init__(f'{prefix}cannot listen on {address}: {reason}')
        self.address, self.reason, self.place = address, reason, place


class SettingError(WSPBusError):
    """A setting is wrong. The code that knows its file and section raises ConfigError from it."""

    exit_code = 2

    def __init__(self, key: str | None, problem: str) -> None:
        super().__init__(f'{key}: {problem}' if key else problem)
        self.key, self.problem = key, problem
