"""The base of ready-made plugins: it knows its section, and which library is missing."""

from __future__ import annotations

import contextlib
import functools
import inspect
from importlib import import_module
from importlib.util import find_spec

from paste_wspbus.errors import ConfigError, SettingError, WSPBusError
from paste_wspbus.ini.factories import at_place, making, one_line
from paste_wspbus.plugins import Plugin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.ready.state import StateFile


class Unhealthy(WSPBusError):
    """A part of the site does not do what it should: its text says what."""


def missing(distribution: str, extra: str) -> str:
    """Return the message for a library that a plugin needs, and that is not installed."""
    how = f"pip install 'paste_wspbus[{extra}]'"
    return f'it needs {distribution}, which is not installed: {how}'


def need(module: str, distribution: str, extra: str) -> None:
    """Check that a library is installed; this does not import it.

    :raises SettingError: if it is not.
    """
    if find_spec(module) is None:
        raise SettingError('use', missing(distribution, extra))


class Part(Plugin):
    """The base class of plugins that are made for a section [plugin:NAME].

    ``name`` is NAME. ``file`` and ``section`` are where that stands; both are None if
    code of the site has made the plugin, and not an .ini.

    :param default_name: the name if no .ini has made it.
    """

    def __init__(self, bus: Bus, default_name: str) -> None:
        super().__init__(bus)
        self.file, self.section = making[-1] if making else (None, None)
        self.name = (self.section or '').partition(':')[2].strip() or default_name

    def wrong(self, key: str, problem: str) -> ConfigError:
        """Return the error that names a key of the section."""
        return ConfigError(self.file, problem, section=self.section, key=key)

    def say(self, text: str, level: int = 20, traceback: bool = False) -> None:
        """Log a text behind the name of the section.

        :param level: that of `logging`.
        """
        self.bus.log(f'[{self.name}] {text}', level, traceback=traceback)

    def offer_health(self, check: Callable[[], object]) -> None:
        """Add a health check for this part, if the site has health checks.

        It is in the group 'health', which is only shown: a job that has failed is no
        reason to send requests elsewhere.
        """
        checks: Any = getattr(self.bus, 'checks', None)
        if checks is not None:
            try:
                checks.add(self.name, check, group='health')
            except WSPBusError as error:  # another check has this name
                self.say(str(error), 30)

    def open_state(self, path: str | None = None) -> StateFile | None:
        """Open the state file of this section; by default, the one in the runtime folder.

        :returns: None, and a warning, if this system has no folder for it.
        :raises WSPBusError: if it cannot be opened.
        """
        from paste_wspbus.ready.state import StateFile, default_path

        kind = type(self).__name__.lower()
        try:
            path = path or default_path(kind, self.file, self.name)
        except WSPBusError as error:
            self.say(f'{error}: each process of the site runs this', 30)
            path = None
        if path is None:
            return None
        file = StateFile(path)
        try:
            file.open()
        except OSError as error:
            problem = (error.strerror or str(error)).lower()
            raise WSPBusError(f'state: cannot write {path}.lock: {problem}') from None
        return file

    def library(self, module: str, distribution: str, extra: str) -> ModuleType:
        """Import a library that only this plugin needs.

        :raises ConfigError: if it is not installed; the error says how to install it.
        """
        try:
            return import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module.partition('.')[0]:
                raise
            raise self.wrong('use', missing(distribution, extra)) from None

    def function_of(self, key: str, name: str) -> Callable[[], object]:
        """Import the function MODULE:FUNCTION that a key names.

        :returns: a function without arguments. If the function of the site has a
            parameter without a default, it gets the bus.
        :raises ConfigError: if it cannot be imported, or is no such function.
        """
        found = self.imported(key, name)
        try:
            return bound(found, self.bus)
        except TypeError as error:
            problem = f'{name} takes {error}: it may take the bus, or nothing'
            raise self.wrong(key, problem) from None

    def imported(self, key: str, name: str) -> Callable[..., object]:
        """Import the function MODULE:FUNCTION that a key names.

        :raises ConfigError: if it cannot be imported, or nothing would run it.
        """
        module, _, path = name.partition(':')
        try:
            found: Any = import_module(module)
            for attribute in path.split('.'):
                found = getattr(found, attribute)
        except (Exception, SystemExit) as error:
            problem = f'{name}: {one_line(error)}{at_place(error)}'
            raise self.wrong(key, problem) from error
        if problem := no_function(found):
            raise self.wrong(key, f'{name} is {problem}')
        return found  # type: ignore[no-any-return]


def no_function(found: object) -> str:
    """Return what an object is if it cannot be called as a function; '' if it can."""
    if not callable(found):
        return f'{type(found).__name__}, no function'
    if inspect.iscoroutinefunction(found) or inspect.isasyncgenfunction(found):
        return 'an async function, which nothing would run'
    if inspect.isgeneratorfunction(found):
        return 'a generator function, which nothing would run'
    return ''


def bound(function: Callable[..., object], *wanted: object) -> Callable[[], object]:
    """Return a function without arguments: it passes as many of ``wanted`` as it must.

    :raises TypeError: if the function takes other arguments; the text has its parameters.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # it is written in C
        return function
    for count in range(len(wanted) + 1):
        with contextlib.suppress(TypeError):
            signature.bind(*wanted[:count])
            return functools.partial(function, *wanted[:count])
    raise TypeError(signature)
