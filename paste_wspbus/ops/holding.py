"""What a process holds for its ops listener: the settings, and the sockets that listen."""

from __future__ import annotations

import os
import socket
import time

from paste_wspbus.errors import BindError, ConfigError, SettingError, UsageError
from paste_wspbus.ini.settings import section_of
from paste_wspbus.listening.sockets import ListeningSocket, bind_error
from paste_wspbus.listening.written import parse_address
from paste_wspbus.ops.access import Access
from paste_wspbus.servers.binding import Binding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from paste_wspbus.ini.config import Config
    from paste_wspbus.listening.written import Address
    from paste_wspbus.ops.thread import OpsThread

#: Seconds between two tries to bind an address.
LOOK = 0.02

#: The number of connections that wait at most until they are accepted. If there is no room,
#: a client tries it again a second later, and most probes have given up then.
BACKLOG = 1024

#: The reason why an address of the site itself is refused.
OF_SITE = 'the site itself has this address'


class Ops:
    """The settings of an ops listener, and its sockets, which are bound with `open`.

    :param config: that of the site.
    :param given: the values of ``--ops``, which replace those of the .ini.
    :raises ConfigError, UsageError: if the settings do not fit together.
    """

    def __init__(self, config: Config, given: list[str] | None) -> None:
        settings = config.settings
        self._config = config
        self._of_command = bool(given)
        folder = os.curdir if given or not config.file else os.path.dirname(config.file)
        self.addresses = [
            _absolute(one, folder) for one in given or settings['ops'] or ()
        ]
        hosts = frozenset(settings['ops_hosts'])
        token = settings['ops_token'] or ''
        self.access = Access(token, hosts, settings['ops_pages'])
        self.sockets: list[ListeningSocket] = []
        #: The thread that answers, in a site of one process.
        self.thread: OpsThread | None = None
        if self.access.pages:
            self._check_pages()

    def _check_pages(self) -> None:
        for address in self.addresses:
            asked = parse_address(address, 'ops')
            if asked.kind == 'tcp' and not _is_loopback(asked.place):
                raise self._error(
                    'ops_pages',
                    f'everybody who reaches {address} would see all pages: ops must be a '
                    'loopback address such as 127.0.0.1:9100; or use ops_token',
                )

    def check(self, of_site: list[Address]) -> list[str]:
        """Return a warning for each Unix socket whose folder is not there.

        :param of_site: the addresses of the site.
        :raises ConfigError, UsageError: if the site has one of the addresses.
        """
        warnings = []
        for address in self.addresses:
            asked = parse_address(address, 'ops')
            if any(_is_at(asked, one) for one in of_site):
                raise self._error('ops', f'{address}: {OF_SITE}')
            folder = os.path.dirname(asked.place)
            if asked.kind == 'unix' and folder and not os.path.isdir(folder):
                warnings.append(f'ops: {address}: there is no folder {folder}')
        return warnings

    def _error(self, key: str, problem: str) -> ConfigError | UsageError:
        config = self._config
        if self._of_command and key == 'ops':
            return UsageError(f'--ops: {problem}')
        section = section_of(config.loader)
        return ConfigError(config.file, problem, section=section, key=key)

    def open(
        self,
        inherited: Iterable[ListeningSocket] = (),
        of_site: Iterable[ListeningSocket] = (),
        patience: float = 0.0,
    ) -> None:
        """Bind and listen; use the inherited sockets that fit, and close the others.

        :param of_site: the sockets of the site, which does not listen yet: so the system
            would not refuse their addresses.
        :param patience: seconds in which another process may give up an address.
        :raises BindError: if an address is taken, or cannot be bound.
        :raises ConfigError, UsageError: if an address has a group that is not there.
        """
        offered, until = list(inherited), time.monotonic() + patience
        names = [one.sock.getsockname() for one in of_site]
        try:
            while True:
                try:
                    return self._open(offered, names)
                except BindError:
                    if time.monotonic() >= until:
                        raise
                time.sleep(LOOK)
        finally:
            for listening in offered:
                if listening not in self.sockets:
                    listening.close()

    def _open(self, offered: list[ListeningSocket], names: list[Any]) -> None:
        binding = Binding({'listen_on': '\n'.join(self.addresses)}, {})
        try:
            _refuse_files_of_site(self.addresses, names)
            binding.bind(offered)
            self.sockets = binding.sockets
            for listening in self.sockets:
                if any(_is_same(listening.sock.getsockname(), name) for name in names):
                    raise BindError(listening.url(), OF_SITE)
                listening.sock.listen(BACKLOG)
        except SettingError as error:
            raise self._error('ops', error.problem) from None
        except BindError as error:
            file = f'{self._config.file} [{section_of(self._config.loader)}] ops'
            place = '--ops' if self._of_command else file
            raise BindError(error.address, error.reason, place) from None
        except OSError as error:  # another process listens since a moment ago
            address = ', '.join(self.addresses)
            self.close()
            raise BindError(address, bind_error(address, error).reason, 'ops') from None

    @property
    def urls(self) -> list[str]:
        """Where the pages are: http://127.0.0.1:9100, unix:/path."""
        return [listening.url() for listening in self.sockets]

    @property
    def secrets(self) -> list[str]:
        """The secrets of the .ini, which no page shows."""
        from paste_wspbus.ini.masking import secrets_of

        return secrets_of(self._config)

    def bequeath(self) -> list[list[Any]]:
        """Hand the sockets to the next program: their descriptors, and their files."""
        self._end_thread()
        kept = [[one.sock.detach(), one.file and [*one.file]] for one in self.sockets]
        self.sockets = []
        return kept

    def close(self) -> None:
        """Close the sockets, and remove their files."""
        self._end_thread()
        while self.sockets:
            self.sockets.pop().close()

    def _end_thread(self) -> None:
        thread, self.thread = self.thread, None
        if thread is not None:
            thread.end()

    def disown(self) -> None:
        """Close the sockets in a forked child: the parent keeps their files."""
        self.thread = None  # the thread does not run in the child
        for listening in self.sockets:
            listening.owned = False
        self.close()


def check(
    config: Config, given: list[str] | None, of_site: Iterable[Address] = ()
) -> list[str]:
    """Check the settings for `--check`.

    :param of_site: the addresses of the site.
    :returns: warnings of keys that do nothing, and of folders that are not there: systemd
        may make these when it starts the site.
    :raises ConfigError, UsageError: if they do not fit together.
    """
    if given or config.settings['ops']:
        return Ops(config, given).check(list(of_site))
    section = section_of(config.loader)
    keys = ('ops_token', 'ops_hosts', 'ops_pages')
    return [
        f'[{section}] {key} does nothing without ops, or --ops'
        for key in keys
        if config.settings[key]
    ]


def inherited_sockets(came: list[list[Any]]) -> list[ListeningSocket]:
    """Return the sockets that the program before this one has bequeathed."""
    return [ListeningSocket(socket.socket(fileno=fd), file=file) for fd, file in came]


def _absolute(address: str, folder: str) -> str:
    """Make the path of a Unix socket absolute."""
    where, question, options = address.partition('?')
    place = where.removeprefix('unix:').removeprefix('//')
    if place == where or place.startswith('@'):
        return address
    path = os.path.normpath(os.path.join(os.path.abspath(folder), place))
    return f'unix:{path}{question}{options}'


def _refuse_files_of_site(addresses: Iterable[str], names: Iterable[Any]) -> None:
    """Keep the file of a Unix socket of the site, which looks like that of a dead one.

    :raises BindError: if an address is that file.
    """
    files = {os.path.abspath(name) for name in names if name and isinstance(name, str)}
    for address in addresses:
        asked = parse_address(address, 'ops')
        if asked.kind == 'unix' and asked.place in files:
            raise BindError(address, OF_SITE)


def _is_at(asked: Address, other: Address) -> bool:
    """Whether two addresses, as they are written, are the same."""
    if asked.kind != other.kind:
        return False
    if asked.kind == 'unix':
        return asked.place == _path_of(other.place)
    hosts = {
        '127.0.0.1' if one == 'localhost' else one for one in (asked.place, other.place)
    }
    is_same = len(hosts) == 1 or bool(hosts & {'0.0.0.0', '::', '*'})
    return is_same and asked.port == other.port != 0


def _path_of(place: str) -> str:
    return place if place.startswith('\0') else os.path.abspath(place)


def _is_same(name: Any, other: Any) -> bool:
    """Whether two sockets of TCP cannot both listen: the port, and the host or all hosts."""
    if not (isinstance(name, tuple) and isinstance(other, tuple)):
        return False
    if len(name) != len(other):  # one is for IPv6, which has two more fields
        return False
    hosts = {name[0], other[0]}
    return name[1] == other[1] and (len(hosts) == 1 or bool(hosts & {'0.0.0.0', '::'}))


def _is_loopback(host: str) -> bool:
    return host in ('localhost', '::1') or host.startswith('127.')
