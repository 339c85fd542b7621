"""The ops listener of a site in a child process: its address, and what it answers."""

import json
import socket

from tests.kit.clients import Connection, Response
from tests.kit.processes import TIMEOUT, eventually


def get(address, path='/ready', host='127.0.0.1', method='GET', **headers):
    """Return the response of an ops listener at (host, port) or the path of a Unix socket."""
    lines = [f'{method} {path} HTTP/1.1', f'Host: {host}']
    lines += [f'{name.replace("_", "-")}: {value}' for name, value in headers.items()]
    return send(address, '\r\n'.join([*lines, '', '']).encode())


def send(address, data):
    """Send bytes, and return the response."""
    with Connection(address) as client:
        client.socket.sendall(data)
        return Response(client.file)


def told(address, path):
    """Return the status and the JSON of a page."""
    response = get(address, path)
    return response.status, json.loads(response.body)


def becomes(address, path, status):
    """Wait until a page has this status."""

    def has_it():
        try:
            return get(address, path).status == status
        except OSError:
            return False

    eventually(has_it)


def silent(address):
    """Return an open connection that sends nothing."""
    sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    sock.settimeout(TIMEOUT)
    sock.connect(address)
    return sock
