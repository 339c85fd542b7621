"""The routes under which a real site counts its requests, as StatsD gets them."""

import re
import socket

from tests.kit.processes import TIMEOUT

PLUGIN = """
[plugin:counted]
use = call:paste_wspbus.ready.statsd:Statsd
port = {port}
tags = test
"""


def routes(folder, serve, *paths):
    """Serve a site and ask for paths; return {(status, route): number of requests}.

    :param folder: that of its site.ini, to which a plugin is added.
    :param serve: makes the `Site`.
    """
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(('127.0.0.1', 0))
        server.settimeout(TIMEOUT)
        add_plugin(folder / 'site.ini', server.getsockname()[1])
        with serve() as site:
            for path in paths:
                site.get(path)
            assert site.stop()[0] == 0
        found = {}
        while sum(found.values()) < len(paths):
            for line in server.recv(65536).decode().split('\n'):
                if match := re.fullmatch(
                    r'wspbus\.requests:(\d+)\|c\|#test,method:GET,status:(.*),route:(.*)',
                    line,
                ):
                    key = match[2], match[3]
                    found[key] = found.get(key, 0) + int(match[1])
        return found


def add_plugin(ini, port):
    text = ini.read_text()
    if '\nplugins =' in text:
        text = text.replace('\nplugins =', '\nplugins = counted', 1)
    elif '[wspbus:main]' in text:
        text = text.replace('[wspbus:main]', '[wspbus:main]\nplugins = counted', 1)
    else:
        text += '\n[wspbus:main]\nplugins = counted\n'
    ini.write_text(text + PLUGIN.format(port=port))
