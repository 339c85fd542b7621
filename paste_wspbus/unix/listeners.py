"""Which process listens at a TCP port of this machine, as far as this user may know it."""

from __future__ import annotations

import os

from paste_wspbus.unix.processes import parent_of, program_of
from paste_wspbus.values import printable

#: The files of proc_pid_net(5) that list the TCP sockets, and the state LISTEN there.
_FILES, _LISTEN = ('/proc/self/net/tcp', '/proc/self/net/tcp6'), '0A'


def why_taken(addresses: str) -> str:
    """Return why an address, or one of several with commas between them, is taken."""
    if addresses.startswith('unix:'):
        return 'another process listens there'
    ports = (one.rstrip('/').rpartition(':')[2] for one in addresses.split(', '))
    found = (who_listens(int(port)) for port in ports if port.isdigit())
    who = next(filter(None, found), 'another process')
    return f'the port is taken: {who} listens there'


def who_listens(port: int) -> str:
    """Return the process that listens at a port, with its program; '' if nobody knows it.

    Root sees all processes, another user only its own.
    """
    pids = _holders({f'socket:[{inode}]' for inode in _inodes(port)})
    # The workers of a site share the socket: its first process is the one to stop.
    first = [pid for pid in pids if parent_of(pid) not in pids]
    if not first:
        return ''
    if first[0] == os.getpid():
        return 'another address of this site'
    program = printable(program_of(first[0]))
    return f'process {first[0]}{program and f" ({program})"}'


def _inodes(port: int) -> set[str]:
    found = set()
    for path in _FILES:
        try:
            with open(path) as lines:
                next(lines, None)
                for line in lines:
                    # proc_pid_net(5): the number of the line, the addresses, the state, …
                    _, local, _, state, *others = line.split()
                    if state == _LISTEN and int(local.rpartition(':')[2], 16) == port:
                        found.add(others[5])
        except OSError:  # another system, or no IPv6
            continue
    return found


def _holders(names: set[str]) -> list[int]:
    if not names:
        return []
    return [
        int(pid) for pid in os.listdir('/proc') if pid.isdigit() and _holds(pid, names)
    ]


def _holds(pid: str, names: set[str]) -> bool:
    try:
        for fd in os.listdir(folder := f'/proc/{pid}/fd'):
            if os.readlink(f'{folder}/{fd}') in names:
                return True
    except OSError:  # another user's, or it has ended, or it has closed this descriptor
        pass
    return False
