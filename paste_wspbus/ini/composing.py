"""The composer, which makes a Site from an .ini: the bus, the plugins and the application."""

from __future__ import annotations

import contextlib
import os
import sys
from types import FunctionType, MethodType

from paste_wspbus.bus import Bus
from paste_wspbus.errors import FactoryError, TimedOut, WSPBusError, shortage
from paste_wspbus.frameworks import introduce
from paste_wspbus.ini import factories
from paste_wspbus.ini.factories import (
    APP,
    BUS,
    at_place,
    create,
    one_line,
    with_bus,
)
from paste_wspbus.ini.settings import NO_CHANNELS, SETTINGS, section_of
from paste_wspbus.reference import composing
from paste_wspbus.requests.filter import BusFilter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from typing import Any


class StartFailed(WSPBusError):
    """A 'start' listener failed. ``place`` is the file and section that it comes from."""

    def __init__(self, place: str, listener: str, error: BaseException) -> None:
        if isinstance(error, TimedOut):
            seconds = max(round(error.seconds, 1), 0.0)
            at = at_place(error.__cause__ or error)
            what = f'{listener} did not start within {seconds:g} s{at}'
        elif isinstance(error, WSPBusError):
            what = str(error)
        elif (lack := shortage(error)) is not None:
            what = f'{listener} failed: {lack}'
        else:
            what = f'{listener} failed: {one_line(error)}{at_place(error)}'
        super().__init__(f'{place}: {what}')
        self.place, self.listener, self.error = place, listener, error


class Site:
    """The site that an .ini describes, composed but not started."""

    def __init__(self, file: str | None, bus: Bus, server: Any) -> None:
        self.file, self.bus, self.server = file, bus, server
        self.app: Any = None
        self.plugins: dict[str, Any] = {}
        #: From the name of each 'start' and 'stop' listener to the section it comes from.
        self.origins: dict[str, str] = {}

    def place_of(self, listener: str) -> str:
        """Return the file and section that a 'start' listener comes from."""
        section = self.origins.get(listener, 'server:main')
        return f'{self.file} [{section}]' if self.file else f'[{section}]'


class Composer:
    """Makes the parts of a site, each with the bus in ``global_conf``.

    :param loader: the loader of the .ini or of an egg.
    :param file: the .ini; None for an egg.
    :param vars: the NAME=VALUE pairs of the command line.
    :param settings: the settings of [wspbus:main].
    """

    def __init__(
        self,
        loader: Any,
        file: str | None,
        vars: Mapping[str, str],
        settings: Mapping[str, Any],
    ) -> None:
        self.loader, self.file = loader, file
        self.vars, self.settings = vars, settings

    def make_bus(self) -> Bus:
        """Make the bus that [wspbus:main] asks for, with its settings.

        :raises ConfigError: if its ``use`` is wrong, or makes no bus.
        """
        bus: Any = Bus()
        factories.steps.clear()  # a supervisor may have left some
        if self.settings['use'] is not None:
            context = self.loader.get_context(BUS, None, dict(self.vars))
            # Its keys are for the command, not for the factory.
            context.local_conf.clear()
            bus = context.create()
            missing = [
                n
                for n in ('start', 'block', 'publish', 'lifespan')
                if not hasattr(bus, n)
            ]
            if missing:
                raise FactoryError(
                    self.file,
                    f'{bus!r} is not a bus: it has no {missing[0]}',
                    section=section_of(self.loader if self.file else None),
                    key='use',
                )
        for target in self.settings['signals'].values():
            # Plugins may listen to it: see Plugin.subscribe.
            if target not in NO_CHANNELS:
                bus.listeners.setdefault(target, set())
        for name, setting in SETTINGS.items():
            if setting.is_of_bus:
                setattr(bus, name, self.settings[name])
        return bus  # type: ignore[no-any-return]

    def make_site(
        self, bus: Bus, server: Any, app_name: str | None, *, with_site_plugins: bool
    ) -> Site:
        """Make the plugins and the application.

        :param with_site_plugins: False if another process makes the site plugins.
        :raises ConfigError: if a section is missing or wrong.
        :raises FactoryError: if a factory fails.
        """
        with composing(bus), self.timed(bus):
            site = Site(self.file, bus, server)
            if with_site_plugins:
                self.make_plugins(site, 'site_plugins')
            self.make_plugins(site, 'plugins')
            self._make_app(site, app_name)
            return site

    def timed(self, bus: Bus) -> contextlib.AbstractContextManager[object]:
        """Record the imports of a block, if ``import_times`` asks for it."""
        if not self.settings['import_times']:
            return contextlib.nullcontext()
        from paste_wspbus.ini.import_times import recorded

        return recorded(bus)

    def make_plugins(self, site: Site, key: str) -> None:
        """Make the plugins that a key of [wspbus:main] lists.

        :raises ConfigError: if a section is missing or wrong.
        :raises FactoryError: if a factory fails.
        """
        if self.settings[key]:
            from paste_wspbus.ini.plugins import make_plugins

            with composing(site.bus):
                make_plugins(self, site, self.settings[key])
        _record_steps(site.bus)

    def _make_app(self, site: Site, app_name: str | None) -> None:
        bus = site.bus
        with self.origin(site, 'app:main'):
            context = self.loader.get_context(APP, app_name, with_bus(self.vars, bus))
            site.app = create(context)
        is_function = isinstance(site.app, (FunctionType, MethodType))
        call = site.app if is_function else type(site.app).__call__
        if not callable(site.app) or _may_be_none(call):
            from paste_wspbus.ini.hints import no_application

            if problem := no_application(site.app):
                section = getattr(context, 'section', None)
                raise FactoryError(self.file, problem, section=section)
        if not (isinstance(site.app, BusFilter) and site.app.bus is bus):
            site.app = BusFilter.around(site.app, bus)
        with self.origin(site, 'app:main'):
            introduce(site.app, bus)
        if site.plugins:
            from paste_wspbus.requests.wrapping import wrapped_by

            site.app = wrapped_by(site.plugins.values(), site.app)
        _record_steps(bus)

    @contextlib.contextmanager
    def origin(self, site: Site, section: str) -> Generator[None]:
        """Note that the listeners that the block subscribes come from a section."""

        def names() -> set[str]:
            channels = map(site.bus.channel, ('start', 'stop'))
            return {one.name for channel in channels for one in channel.ordered}

        before = names()
        yield
        site.origins.update(dict.fromkeys(names() - before, section))


def _record_steps(bus: Bus) -> None:
    """Move the times of the load to the timeline; a bus of another package has none."""
    for step in [*factories.steps]:
        if hasattr(bus, 'calls'):
            bus.calls.record(*step)
    factories.steps.clear()


def site_folder(file: str | None) -> str:
    """Return the folder of the .ini; for an egg, which has no file, the working folder."""
    return os.path.dirname(os.path.abspath(file)) if file else os.getcwd()


def site_path(file: str | None) -> None:
    """Make modules beside the .ini importable: add its folder to `sys.path`.

    `paster` finds the modules of a project by its egg-info folder. If an .ini has no
    project, ``call:`` would find no modules.
    """
    folder = site_folder(file)
    if folder not in sys.path:
        sys.path.append(folder)


def _may_be_none(call: Any) -> bool:
    """Whether a function is asynchronous, or may not take (environ, start_response)."""
    code = getattr(call, '__code__', None)
    if code is None:
        return False
    flags = code.co_flags  # 0x80 is CO_COROUTINE, as in ASGI; 0x04 CO_VARARGS
    return bool(flags & 0x80) or not (code.co_argcount in (2, 3) or flags & 0x04)
