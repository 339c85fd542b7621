"""How a launcher or a supervisor reads what another process reports."""

from __future__ import annotations

import os

from paste_wspbus.wire.lines import MAX_REPORT, NoReport, read_report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

#: The number of bytes that are read at once at most: if a process sends very many reports,
#: its supervisor must have time for other processes.
READ = 8192


class Inbox:
    """The end that reads the messages of a `Report`; any bytes may come there."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._buffer = bytearray()

    def read(self) -> list[dict[str, Any]] | None:
        """Read once, and return the messages that are complete now; None at the end.

        :raises NoReport: (a ValueError) if a line is not a report, or is too long.
        """
        came = os.read(self.fd, READ)
        if not came:
            return None
        searched = len(self._buffer)
        self._buffer += came
        end = self._buffer.rfind(b'\n', searched)
        if end < 0:
            if len(self._buffer) > MAX_REPORT:
                self._buffer.clear()
                raise NoReport(f'a line of more than {MAX_REPORT} bytes')
            return []
        lines = bytes(self._buffer[:end]).split(b'\n')
        del self._buffer[: end + 1]
        return [message for line in lines if (message := read_report(line))]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield all messages, until the end."""
        while (messages := self.read()) is not None:
            yield from messages
