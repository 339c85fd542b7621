"""The addresses that the settings of a server ask for, before it binds them."""

from __future__ import annotations

from paste_wspbus.listening.addresses import parse_port, split_listen
from paste_wspbus.listening.written import Address, parse_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.servers.binding import Binding


def asked_of(server: Binding) -> list[Address]:
    """Return the addresses for which `Binding.make_sockets` makes sockets, as they are written."""
    conf = server.conf
    if 'listen_on' in conf:
        words = conf['listen_on'].splitlines()
    elif conf.get('unix_socket'):
        words = [f'unix:{conf["unix_socket"]}']
    elif conf.get('listen'):
        words = split_listen(conf['listen'])
    else:
        port = conf.get('port')
        host = (conf.get('host') or server.default_host).strip('[]')
        port = parse_port(server.default_port if port is None else port)
        return [Address('tcp', host, port)]
    return [parse_address(word, 'listen') for word in words]
