"""The section [server:main]: it names a server, and where that server listens."""

from __future__ import annotations

import contextlib
import os

from paste_wspbus.errors import BindError, ConfigError, FactoryError, SettingError
from paste_wspbus.ini.factories import SERVER
from paste_wspbus.listening.addresses import parse_port
from paste_wspbus.servers.registry import adapter_for, find_adapter
from paste_wspbus.servers.server import WHERE, Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence
    from typing import Any

    from paste_wspbus.listening.sockets import ListeningSocket


class ServerSection:
    """``[server:NAME]`` of an .ini, or the server that the command line asks for.

    :param loader: the loader of the .ini or of an egg.
    :param file: the .ini; None for an egg.
    :param vars: the NAME=VALUE pairs of the command line.
    :param name: NAME; None stands for ``main``.
    :param kind: a server of egg:PasteScript, in the place of the section.
    :param listen: the addresses that replace those of the section: values of
        ``--listen``, or of ``listen`` in [wspbus:main].
    """

    def __init__(
        self,
        loader: Any,
        file: str | None,
        vars: Mapping[str, str],
        name: str | None = None,
        kind: str | None = None,
        listen: Sequence[str] | None = None,
    ) -> None:
        self.loader, self.file, self.vars = loader, file, vars
        self.name, self.kind, self.listen = name, kind, listen

    def known(self) -> Server | None:
        """Return the server if wspserve has an adapter for it; its sockets are not bound yet.

        No code of the site is imported. Without a section, the server is waitress, and
        listens on the addresses in ``listen``.

        :returns: None if `servers.registry.ADAPTERS` does not have it: see `make`.
        :raises ConfigError: if the section is missing or wrong.
        """
        if not (self.kind or self.name or self._is_there()):
            self.listen = self.listen or self._port_of_environment()
            if not self.listen:
                from paste_wspbus.ini.hints import server_hint

                parser = getattr(self.loader, 'parser', None)
                hint = server_hint(parser.sections() if parser is not None else ())
                problem = f'there is no section [server:main]; {hint}'
                raise ConfigError(self.file, problem)
            waitress = find_adapter('waitress:serve_paste')
            assert waitress is not None
            return self._configure(waitress, {}, self.vars, None)
        if self.listen:
            self.forget_where()
        loader, name = self.loader, self.kind or self.name
        if self.kind:
            from paste_wspbus.ini.eggs import EggLoader

            loader = EggLoader('PasteScript')
        factory = loader.factory_name(SERVER, name) or ''
        with self._finding_packages():
            is_known = find_adapter(factory) is not None
        if not is_known:
            return None
        context = loader.get_context(SERVER, name, dict(self.vars))
        adapter, conf = adapter_for(context.object), context.local_conf
        if adapter is None or not adapter.knows(conf):
            return None
        section = getattr(context, 'section', None)
        return self._configure(adapter, conf, context.global_conf, section)

    def bind(self, server: Server, offered: Iterable[ListeningSocket] = ()) -> None:
        """Bind the sockets of a server that has an adapter.

        :param offered: sockets that the predecessor or another program has bound.
        :raises ConfigError, BindError: if the address is wrong or taken.
        """
        section = None
        if self.file and (self.name or self._is_there()):
            section = self.loader.find_config_section(SERVER, self.name)
        with self._naming(section):
            server.bind(offered)

    def forget_where(self) -> None:
        """Remove the keys of the address, because ``--listen`` replaces them.

        They may use variables that have no value.
        """
        if self.file is None:
            return
        name = self.name or 'main'
        for section in {f'server:{name}', name, *(['server'] * (name == 'main'))}:
            if self.loader.parser.has_section(section):
                for key in WHERE:
                    self.loader.parser.remove_option(section, key)

    def _port_of_environment(self) -> list[str] | None:
        """Return the address to listen on if $PORT is set; some hosting platforms set it."""
        port = os.environ.get('PORT')
        if not port:
            return None
        with self._naming(None):
            return [f'0.0.0.0:{parse_port(port, "$PORT")}']

    def _is_there(self) -> bool:
        if self.file is None:
            return self.loader.factory_name(SERVER, None) is not None
        sections = self.loader.parser.sections()
        return any(one in ('server', 'server:main') for one in sections)

    def _configure(
        self,
        adapter: type[Server],
        conf: dict[str, str],
        global_conf: Any,
        section: str | None,
    ) -> Server:
        if self.listen:
            conf = {k: v for k, v in conf.items() if k not in WHERE}
            conf['listen_on'] = '\n'.join(self.listen)
        with self._naming(section):
            return adapter(conf, global_conf)

    @contextlib.contextmanager
    def _finding_packages(self) -> Generator[None]:
        """Convert the error if the package of the server cannot be imported.

        :raises ConfigError: if it is not installed; or FactoryError, if it is broken.
        """
        try:
            yield
        except (ImportError, AttributeError, SyntaxError) as error:
            from paste_wspbus.ini.server_mistakes import in_import

            wrong = in_import(self, error)
            # A package that is not installed is worth no traceback.
            raise wrong from (error if isinstance(wrong, FactoryError) else None)

    @contextlib.contextmanager
    def _naming(self, section: str | None) -> Generator[None]:
        """Make errors about a server's settings name the file and the section."""
        try:
            yield
        except SettingError as error:
            if error.key == 'listen_on' or (error.key or '').startswith('--'):
                raise
            from paste_wspbus.ini.server_mistakes import in_setting

            raise in_setting(self.file, section, error) from None
        except BindError as error:
            place = f'{self.file} [{section}]' if section and not self.listen else ''
            raise BindError(error.address, error.reason, place) from None


def check_workers(file: str | None, workers: int, server: Server | None) -> None:
    """Check that the server can serve in this number of processes.

    :raises ConfigError: if the server cannot share its socket.
    """
    if server is None and workers > 1:
        raise ConfigError(
            file,
            f'this server opens its own socket, which {workers} workers cannot share; '
            'use waitress, Paste#http, CherryPy, wsgiref or egg:paste_wspbus#cheroot',
            section='server:main',
        )
