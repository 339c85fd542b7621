"""The configuration of one site, through which the command and the hosts use this room."""

from __future__ import annotations

import re

from paste_wspbus.errors import ConfigError
from paste_wspbus.ini.composing import (
    Composer,
    Site,
    StartFailed,
    site_folder,
    site_path,
)
from paste_wspbus.ini.factories import SERVER, Terminated
from paste_wspbus.ini.file import ConfigLoader, find
from paste_wspbus.ini.server import ServerSection, check_workers
from paste_wspbus.ini.settings import read_settings
from paste_wspbus.values import split_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from configparser import ConfigParser
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.listening.sockets import ListeningSocket
    from paste_wspbus.servers.blocking import BlockingServer
    from paste_wspbus.servers.server import Server

__all__ = [
    'SERVER',
    'Config',
    'Site',
    'StartFailed',
    'Terminated',
    'site_folder',
    'site_path',
]


class Config:
    """One site's configuration, read and checked; nothing is composed yet.

    :param uri: a path, ``config:path#name`` or ``egg:Dist#name``.
    :param vars: the NAME=VALUE pairs of the command line.
    :param relative_to: the folder in which a relative path starts.
    :raises ConfigError: if the file cannot be read, or [wspbus:main] is wrong.
    """

    def __init__(self, uri: str, vars: Mapping[str, str], relative_to: str) -> None:
        scheme, colon, rest = uri.partition(':')
        if not colon or not re.fullmatch('[a-zA-Z][a-zA-Z]+', scheme):
            scheme, rest = 'config', uri
        self.vars = dict(vars)
        path, name = split_file(rest)
        self.app_name: str | None = name or None
        self.uri = f'{scheme}:{path}'
        self.file: str | None = None
        self.loader: Any
        if scheme.lower() == 'config':
            self.file = find(path, relative_to)
            self.loader = ConfigLoader(self.file, self.vars)
        elif scheme.lower() == 'egg':
            from paste_wspbus.ini.eggs import EggLoader

            self.loader = EggLoader(path)
        else:
            from paste_wspbus.ini.hints import as_elsewhere

            takes = 'name a file, config:FILE or egg:DIST'
            raise ConfigError(uri, f'this is not a site: {takes}{as_elsewhere(uri)}')
        self.settings = read_settings(self.loader if self.file else None)
        self._composer = Composer(self.loader, self.file, self.vars, self.settings)

    @property
    def files(self) -> list[str]:
        """The paths of the .ini and of the files that it includes; [] for an egg: URI."""
        from paste_wspbus.ini.includes import files_of

        return files_of(self.loader) if self.file else []

    def section(self, name: str) -> dict[str, str]:
        """Return the values of a section, interpolated; {} if there is none.

        :raises ConfigError: if a value uses a variable that has no value.
        """
        return self.loader.values(name) if self.file else {}

    # [server:main]

    def known_server(
        self,
        name: str | None = None,
        kind: str | None = None,
        listen: Sequence[str] | None = None,
    ) -> Server | None:
        """Return the server of ``[server:NAME]``; its sockets are not bound yet.

        No code of the site is imported.

        :param kind: a server of egg:PasteScript, in the place of the section.
        :param listen: the addresses that replace those of the section; without a
            section, waitress listens there.
        :returns: None if `servers.registry.ADAPTERS` does not have it: see `make_server`.
        :raises ConfigError: if the section is missing or wrong.
        """
        return self._server(name, kind, listen).known()

    def check_server(self, name: str | None = None) -> None:
        """Check that ``[server:NAME]`` names something that exists, without importing it.

        :raises ConfigError: if it does not.
        """
        if self.file:
            from paste_wspbus.ini.check import check_server  # a start does not need it

            check_server(self, name)

    def make_server(
        self,
        bus: Bus,
        name: str | None = None,
        kind: str | None = None,
        listen: Sequence[str] | None = None,
    ) -> BlockingServer:
        """Make a server without an adapter: call its factory, which returns ``server(app)``.

        :raises ConfigError: if the section is wrong.
        :raises FactoryError: if the factory fails.
        """
        from paste_wspbus.ini.unknown_server import make_server

        return make_server(self._server(name, kind, listen), bus)

    def bind(
        self,
        server: Server,
        name: str | None,
        listen: Sequence[str] | None,
        offered: Iterable[ListeningSocket] = (),
    ) -> None:
        """Bind the sockets of a server that has an adapter.

        :param offered: sockets that the predecessor or another program has bound.
        :raises ConfigError, BindError: if the address is wrong or taken.
        """
        self._server(name, None, listen).bind(server, offered)

    def forget_where(self, name: str | None = None) -> None:
        """Remove the address of ``[server:NAME]``: it may use variables that have no value."""
        self._server(name).forget_where()

    def check_workers(self, workers: int, server: Server | None) -> None:
        """Check that the server can do with this number of processes.

        :raises ConfigError: if it cannot.
        """
        check_workers(self.file, workers, server)

    def _server(
        self,
        name: str | None = None,
        kind: str | None = None,
        listen: Sequence[str] | None = None,
    ) -> ServerSection:
        listen = listen or self.settings['listen']
        return ServerSection(self.loader, self.file, self.vars, name, kind, listen)

    # composing

    def make_bus(self) -> Bus:
        """Make the bus that [wspbus:main] asks for, with its settings.

        :raises ConfigError: if its ``use`` is wrong, or makes no bus.
        """
        return self._composer.make_bus()

    def compose(
        self,
        bus: Bus,
        server: Any,
        app_name: str | None = None,
        *,
        with_site_plugins: bool = True,
    ) -> Site:
        """Make the plugins and the application, both with the bus in ``global_conf``.

        :param with_site_plugins: False if another process makes the site plugins.
        :raises ConfigError: if a section is missing or wrong.
        :raises FactoryError: if a factory fails.
        """
        return self._composer.make_site(
            bus,
            server,
            app_name or self.app_name,
            with_site_plugins=with_site_plugins,
        )

    def compose_plugins(self, bus: Bus, key: str) -> Site:
        """Make only the plugins that a key of [wspbus:main] lists: no application, no server.

        :raises ConfigError: if a section is missing or wrong.
        :raises FactoryError: if a factory fails.
        """
        site = Site(self.file, bus, None)
        with self._composer.timed(bus):
            self.make_plugins(site, key)
        return site

    def make_plugins(self, site: Site, key: str) -> None:
        """Make the plugins that a key of [wspbus:main] lists.

        :raises ConfigError: if a section is missing or wrong.
        :raises FactoryError: if a factory fails.
        """
        self._composer.make_plugins(site, key)

    # logging

    def logging_parser(self) -> ConfigParser:
        """Return the file as `logging.config` reads it, with ``here`` and the vars."""
        from paste_wspbus.ini.logging import logging_parser

        text = self.loader.text
        return logging_parser(str(self.file), text, self.vars, self.logs_json)

    @property
    def logs_json(self) -> bool:
        """Whether logs are JSON."""
        return bool(self.settings['log_format'] == 'json')

    @property
    def watches_requests(self) -> bool:
        """Whether requests have limits, or their ids stand in the log."""
        limits = ('slow_request', 'request_deadline')
        if self.logs_json or any(self.settings[key] is not None for key in limits):
            return True
        sections = self.loader.parser._sections if self.file else {}
        return any(
            'request_id' in (keys.get('format') or '')
            for name, keys in sections.items()
            if name.startswith('formatter_')
        )

    def configure_logging(self) -> bool:
        """Set up logging as the .ini says, but do not disable existing loggers.

        :returns: whether the .ini configures logging.
        :raises ConfigError: if its logging sections are wrong, or a library is missing.
        """
        if self.file is None or not self.loader.parser.has_section('loggers'):
            return False
        from paste_wspbus.ini.logging import configure_logging, load_json

        if self.logs_json:
            load_json(self)
        configure_logging(self.file, self.loader.text, self.vars, self.logs_json)
        return True
