"""How waitress serves faster in our adapter: each way replaces one part of waitress, and can be switched off."""

from __future__ import annotations

import os

from waitress.task import WSGITask

from paste_wspbus.errors import SettingError
from paste_wspbus.values import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The environment variable that names the ways which are switched off.
WITHOUT = 'WSPBUS_WAITRESS_WITHOUT'

#: The names of the ways.
ONE_SEND = 'one-send'
WAYS = (ONE_SEND,)

#: The major version of waitress whose parts are replaced here.
MAJOR = 3

#: Bytes. A longer first chunk is not copied to join it to the head of its response.
LONGEST_JOINED = 32768


def switched_off() -> frozenset[str]:
    """Return the ways that `WITHOUT` names, separated by commas or spaces; ``all`` is all of them.

    :raises SettingError: if it names anything else.
    """
    words = os.environ.get(WITHOUT, '').replace(',', ' ').split()
    for word in words:
        if word not in (*WAYS, 'all'):
            hint = nearest(word, [*WAYS, 'all'])
            raise SettingError(None, f'{WITHOUT}: there is no {word!r}{hint}')
    return frozenset(WAYS if 'all' in words else words)


def ways() -> frozenset[str]:
    """Return the names of the ways to use: none with another major version of waitress.

    :raises SettingError: if the environment variable `WITHOUT` names an unknown way.
    """
    off = switched_off()
    return frozenset() if _major() != MAJOR else frozenset(WAYS) - off


def _major() -> int | None:
    """Return the major version of the waitress that is installed, or None if nothing says it."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        found = distribution('waitress')
    except PackageNotFoundError:
        return None
    # Not `found.version`: for one line, that loads Python's parser of e-mails.
    text = found.read_text('METADATA') or found.read_text('PKG-INFO') or ''
    for line in text.splitlines():
        if line.startswith('Version:'):
            major = line.removeprefix('Version:').strip().partition('.')[0]
            return int(major) if major.isdecimal() else None
    return None


class OneSend(WSGITask):  # type: ignore[misc]
    """A request whose head and first chunk leave in one send(2); waitress makes two of them."""

    def write(self, data: Any) -> None:
        """Write a chunk, the first one together with the head.

        waitress's own method says what is written, and in which order: for the first
        chunk, what it writes is collected, and given to the channel at once. Only the
        thread that runs this request writes to the channel meanwhile. What is not bytes
        is not joined: waitress sends the head before it refuses such a chunk.
        """
        if (
            self.wrote_header
            or type(data) is not bytes
            or not 0 < len(data) <= LONGEST_JOINED
        ):
            super().write(data)
            return
        channel, pieces = self.channel, []  # type: ignore[var-annotated]
        channel.write_soon = pieces.append
        try:
            super().write(data)
        finally:
            del channel.write_soon  # its class's own again
            if pieces:
                channel.write_soon(b''.join(pieces))
