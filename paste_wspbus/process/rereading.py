"""How a running process reads its .ini again, and keeps what it has opened."""

from __future__ import annotations

import os

from paste_wspbus.errors import ConfigError, UsageError, WSPBusError
from paste_wspbus.ini.config import Config
from paste_wspbus.ini.settings import FILES
from paste_wspbus.servers.rebinding import bind_anew

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.process.process import Process
    from paste_wspbus.servers.server import Server

#: The keys whose values stay until wspserve is started anew.
_STAYS = (*FILES, 'site_metrics', 'ops', 'ops_token', 'ops_hosts', 'ops_pages')


#: The defaults that have done their work already, or that no worker has:
#: `ini.settings.DEFAULTS`.
OF_THE_SUPERVISOR = ('daemonizer', 'privileges', 'pidfile', 'signals', 'systemd')


def reconfigure(process: Process) -> Callable[[], None]:
    """Read the .ini anew, for the processes that load the site from now on.

    The sockets stay open.

    :returns: a function that takes this back.
    :raises WSPBusError: if the .ini is wrong; then nothing has changed.
    """
    before, file, old = process.config, process.config.file, process.server
    if file is not None and os.path.exists(file) and not os.access(file, os.R_OK):
        # This process has read it before it changed its user.
        process.notes.append(
            f'{file} cannot be read by this user: its settings stay as they were read before'
        )
        return lambda: None
    process.follow_link()
    config, server = _read(process)
    if server is not None and old is None and process.is_worker:
        # The .ini named no server when this process was made, which kept its sockets.
        server.adopt(process.inheritance.take_sockets())
        for listening in server.sockets:
            listening.owned = False  # they belong to the supervisor
        is_other = not server.sockets
    else:
        is_other = (server is None) != (old is None)
    if is_other:
        raise _other_server(process, before, config)
    process.notes += _files_that_stay(process, config)
    if server is not None and old is not None:
        if not process.is_worker:
            _look_after_sockets(process, server, old)
        server.adopt(old.sockets)
        old.sockets = []
    process.config, process.server = config, server

    def undo() -> None:
        if server is not None and old is not None:
            old.adopt(server.sockets)
            server.sockets = []
        process.config, process.server = before, old

    return undo


def _other_server(process: Process, before: Config, config: Config) -> WSPBusError:
    """Return the error for a server of another kind; or for a name that is no server."""
    name = process.options.server_name
    try:
        config.check_server(name)
    except ConfigError as error:
        return error
    uses = [
        one.section(f'server:{name or "main"}').get('use') for one in (before, config)
    ]
    problem = 'stop wspserve and start it again'
    if not all(uses):
        return UsageError(f'the .ini names another kind of server now: {problem}')
    return ConfigError(
        config.file,
        f'it has changed from {uses[0]} to {uses[1]}: {problem}',
        section=f'server:{name or "main"}',
        key='use',
    )


def _files_that_stay(process: Process, config: Config) -> list[str]:
    """Return a line for each file, address and default that the .ini names anew."""
    old, new = process.config.settings, config.settings
    given = {key: getattr(process.options, key, None) for key in _STAYS}
    changed = [
        key for key in _STAYS if new[key] != old[key] and given[key] in (None, old[key])
    ]
    return [
        f'{key} in [wspbus:main] has changed, which takes a restart: stop wspserve and '
        f'start it again; until then {_shown(key, given[key] or old[key])} stays'
        for key in changed
    ] + [
        f'{key} in [wspbus:main] has changed, which takes a restart: stop wspserve and '
        'start it again'
        for key in OF_THE_SUPERVISOR
        if new['defaults'].get(key) != old['defaults'].get(key)
    ]


def _shown(key: str, value: object) -> object:
    if key == 'ops_token' and value:
        return 'the old one'  # a secret does not belong in the log
    return (
        ' '.join(value) if isinstance(value, (list, tuple)) else value
    ) or 'the default'


def _look_after_sockets(process: Process, server: Server, old: Server) -> None:
    """Make sure that clients can reach the next generation.

    :raises BindError: if the file of a Unix socket is gone, and cannot be bound anew.
    """
    for lost in bind_anew(old):
        lost.close()
        process.notes.append(f'The file of {lost.url()} was removed: it is bound again')
    if server.where != old.where:
        if not _are_passed(old):
            process.notes.append(_stays(old))
        server.where = old.where


def _are_passed(server: Server) -> bool:
    """Whether another program has passed the sockets; then no address of the .ini counts."""
    return any(listening.is_passed for listening in server.sockets)


class ListenAddressNotice:
    """Prints, under --reload, that the address in the .ini has changed, once for each change.

    :param show: prints a line.
    """

    def __init__(self, process: Process, show: Callable[[str], object]) -> None:
        self._process, self._show = process, show
        #: The address in the .ini that was printed last.
        self._printed: dict[str, Any] | None = None

    def look(self, changed: list[str]) -> None:
        """Compare the addresses if the .ini is among the changed files."""
        process, current = self._process, self._process.server
        files = {os.path.abspath(path) for path in process.config.files}
        if current is None or files.isdisjoint(changed):
            return
        try:
            _, server = _read(process)
        except WSPBusError:
            return  # the next process reports what is wrong
        if server is None or server.where == self._printed:
            return
        self._printed = server.where
        if server.where != current.where and not _are_passed(current):
            self._show(_stays(current))


def _read(process: Process) -> tuple[Config, Server | None]:
    options = process.options
    config = Config(options.config, options.vars, process.folder)
    return config, process.known_server(config)


def _stays(server: Server) -> str:
    return (
        'The address in the .ini has changed: to use it, stop wspserve and start it '
        f'again; until then {", ".join(server.urls)} stays'
    )
