"""The sockets of a known server: it inherits or binds those that its settings ask for."""

from __future__ import annotations

import socket

from paste_wspbus.errors import BindError
from paste_wspbus.listening.addresses import (
    parse_host,
    parse_mode,
    parse_port,
    resolve,
    split_listen,
)
from paste_wspbus.listening.sockets import (
    ListeningSocket,
    bind_tcp,
    is_abstract,
)
from paste_wspbus.values import boolean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from paste_wspbus.listening.addresses import SocketAddress

#: The settings of all servers that say where to listen.
WHERE = (
    'host',
    'port',
    'listen',
    'unix_socket',
    'unix_socket_perms',
    'ipv4',
    'ipv6',
    'ipv6only',
    'listen_on',
)


def _listen(text: str) -> str:
    """Return the text, unless an address in it is wrong: then raise SettingError."""
    from paste_wspbus.listening.written import parse_address

    for address in split_listen(text):
        parse_address(address, 'listen')
    return text


#: The converter of each setting that all servers take. ``listen_on`` is not a key of the
#: .ini: it has the values of ``--listen``, one on each line.
ADDRESS: dict[str, Callable[[str], Any]] = {
    'host': parse_host,
    'port': parse_port,
    'listen': _listen,
    'unix_socket': str,
    'unix_socket_perms': parse_mode,
    'ipv6only': boolean,
    'listen_on': str,
}


class Binding:
    """The addresses of a server, and the sockets for them.

    :param conf: the settings, converted.
    :param said: the settings as the .ini and the command line give them, as texts.
    """

    default_host = '127.0.0.1'
    default_port = 8080
    #: The defaults of this server: whether a socket for [::] accepts IPv6 only, and the
    #: mode of a Unix socket. None stands for 0777 without the bits of the umask.
    ipv6only = True
    unix_mode: int | None = 0o600

    def __init__(self, conf: dict[str, Any], said: Mapping[str, str]) -> None:
        self.conf = conf
        #: The settings that say where to listen.
        self.where = {key: said[key] for key in WHERE if key in said}
        self.sockets: list[ListeningSocket] = []
        #: While this server binds: all sockets of the predecessor, and those that it has
        #: not used yet.
        self._inherited: list[ListeningSocket] = []
        self._unused: list[ListeningSocket] = []

    def bind(self, offered: Iterable[ListeningSocket] = ()) -> None:
        """Bind without listening, so that a port that is taken is noticed early.

        :param offered: sockets that others have bound: the server uses those that
            fit; the caller must close the others.
        :raises BindError: if the server cannot bind an address.
        """
        if self.sockets:
            return
        self._inherited = [*offered]
        self._unused = [*self._inherited]
        try:
            self.sockets = self.make_sockets()
        finally:
            self._inherited, self._unused = [], []

    def bind_tcp(
        self, family: int, address: SocketAddress, ipv6only: bool | None = None
    ) -> ListeningSocket:
        """Return a socket at an address: an inherited socket if there is one."""
        if ipv6only is None:
            ipv6only = boolean(self.conf.get('ipv6only', self.ipv6only))
        offered = self._take_offered(family, address)
        if offered is not None and offered.keeps_to_ipv6 in (None, ipv6only):
            return offered
        if offered is not None:
            offered.close()
        try:
            return bind_tcp(family, address, ipv6only)
        except BindError:
            # An inherited socket may use the same port at another address, such as 0.0.0.0.
            rivals = [one for one in self._unused if one.has_port(address[1])]
            for rival in rivals:
                self._unused.remove(rival)
                rival.close()
            if not rivals:
                raise
        return bind_tcp(family, address, ipv6only)

    def bind_unix(
        self,
        path: str,
        mode: int | None = None,
        key: str = 'unix_socket',
        group: str | None = None,
    ) -> ListeningSocket:
        """Return a Unix socket at a path: an inherited socket if there is one.

        :param mode: the mode of its file. None stands for ``unix_socket_perms``, or
            without that key for the default of the server.
        """
        if mode is None and not is_abstract(path):
            said = self.conf.get('unix_socket_perms')
            # The adapter of waitress does not convert it.
            mode = parse_mode(said) if isinstance(said, str) else said
            mode = self.unix_mode if mode is None else mode
        offered = self._take_offered(socket.AF_UNIX, path)
        if offered is not None:
            return offered
        from paste_wspbus.listening.unix_sockets import bind_unix

        return bind_unix(path, mode, key, group)

    def _take_offered(
        self, family: int, address: SocketAddress | str
    ) -> ListeningSocket | None:
        for listening in self._unused:
            if listening.is_reachable and listening.is_at(family, address):
                self._unused.remove(listening)
                return listening
        return None

    def sockets_for(self, address: str, key: str = '--listen') -> list[ListeningSocket]:
        """Return the sockets for a value of ``--listen``.

        :raises SettingError: if the value is not an address.
        :raises BindError: if the server cannot bind the address.
        """
        from paste_wspbus.listening.written import parse_address

        asked = parse_address(address, key)
        if asked.kind == 'unix':
            return [self.bind_unix(asked.place, asked.mode, key, asked.group)]
        if asked.kind == 'fd':
            from paste_wspbus.listening.passed import take

            return take(asked.place, self._unused, key)
        family, resolved = resolve(asked.place, asked.port)[0]
        return [self.bind_tcp(family, resolved, asked.ipv6only)]

    def _bind_all(self, addresses: Iterable[str], key: str) -> list[ListeningSocket]:
        """Return the sockets for several values; if one fails, close those that were bound."""
        bound: list[ListeningSocket] = []
        try:
            for address in dict.fromkeys(addresses):
                bound += self.sockets_for(address, key)
        except BaseException:
            self.close_new(bound)
            raise
        return bound

    def close_new(self, sockets: list[ListeningSocket]) -> None:
        """Close the sockets that were bound now; inherited sockets stay open."""
        while sockets:
            listening = sockets.pop()
            if listening not in self._inherited:
                listening.close()

    @property
    def says_where(self) -> bool:
        """Whether the settings have an address."""
        return not self.where.keys().isdisjoint(
            ('host', 'port', 'listen', 'unix_socket', 'listen_on')
        )

    def make_sockets(self) -> list[ListeningSocket]:
        """Return the sockets for ``listen_on``, ``unix_socket``, ``listen``, or host and port."""
        conf = self.conf
        if 'listen_on' in conf:
            return self._bind_all(conf['listen_on'].splitlines(), '--listen')
        if conf.get('unix_socket'):
            return self.sockets_for(f'unix:{conf["unix_socket"]}', 'unix_socket')
        if conf.get('listen'):
            return self._bind_all(split_listen(conf['listen']), 'listen')
        host, port = conf.get('host'), conf.get('port')
        host = (host or self.default_host).strip('[]')
        family, address = resolve(host, self.default_port if port is None else port)[0]
        return [self.bind_tcp(family, address)]
