"""A terminal that shows lines in place: it is set up, drawn on, and always restored."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import threading

from paste_wspbus.command.status_text import BAD, BUSY, GOOD, HEADING, cut
from paste_wspbus.command.terminal import encodable
from paste_wspbus.values import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.command.status_text import Line

#: The control sequences (ECMA-48, and xterm's private modes): the other screen, no
#: cursor, no wrapping of long lines; and the reverse.
ENTER, LEAVE = '\x1b[?1049h\x1b[?25l\x1b[?7l', '\x1b[?7h\x1b[?25h\x1b[?1049l'

#: To the first column of the first line; clear the rest of the line; clear what is below.
HOME, END_OF_LINE, BELOW = '\x1b[H', '\x1b[K', '\x1b[J'

#: The control sequence of each style, and the one that ends it.
COLOURS = {HEADING: '\x1b[1m', GOOD: '\x1b[32m', BUSY: '\x1b[33m', BAD: '\x1b[31m'}
NO_COLOUR = '\x1b[0m'

#: The columns and rows of a terminal that does not say its size.
USUAL_SIZE = (80, 24)

#: The signals that must have their usual effect: they stop a process that uses the
#: terminal in the background.
_OF_JOBS = (signal.SIGTTIN, signal.SIGTTOU)


class Screen:
    """The terminal, while the ``with`` block shows something there; keys come at once.

    Python's curses would do this, too. It is not used because some builds of Python lack
    it, and because what is needed here is a dozen control sequences.

    ``reader`` becomes readable when a signal has come, or `wake` was called. The terminal
    is restored at the end of the block, however it ends, and while the process is stopped
    (Ctrl-Z).

    :param colours: whether styles are shown.
    """

    def __init__(self, colours: bool) -> None:
        self.colours = colours
        self.reader, self._writer = os.pipe()
        for fd in (self.reader, self._writer):
            os.set_blocking(fd, False)
        self._before: list[Any] | None = None
        self._handlers: dict[int, Any] = {}
        self._wakeup_fd = -1
        self._must_stop = self._was_stopped = False

    def __enter__(self) -> Screen:
        self._wakeup_fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        try:
            for number in _OF_JOBS:
                self._handle(number, signal.SIG_DFL)
            if signal.getsignal(signal.SIGTSTP) is not signal.SIG_IGN:  # no job control
                self._handle(signal.SIGTSTP, self._note_stop)
            self._handle(signal.SIGCONT, self._note_continuation)
            self._handle(signal.SIGWINCH, lambda *_: None)  # it wakes whoever waits
            self.set_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.restore()
        except BaseException:  # a signal has interrupted it
            self.restore()
            raise
        finally:
            signal.set_wakeup_fd(self._wakeup_fd)
            for number, handler in self._handlers.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            writer, self._writer = self._writer, -1
            os.close(writer)
            os.close(self.reader)

    def _handle(self, number: int, handler: Any) -> None:
        self._handlers[number] = signal.signal(number, handler)

    # -- set up and restore -----------------------------------------------------------

    def set_up(self) -> None:
        """Show the other screen; let keys come at once, and not be echoed.

        :raises OSError: if the terminal was closed.
        """
        try:
            now = termios.tcgetattr(0)
            self._before = self._before or now
            mode = [*now]
            mode[3] &= ~(termios.ICANON | termios.ECHO)
            termios.tcsetattr(0, termios.TCSANOW, mode)
        except termios.error as error:
            raise OSError(*error.args) from None
        self._write(ENTER)

    def restore(self) -> None:
        """Show what was there before; nothing happens if the terminal was closed."""
        if self._before is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(0, termios.TCSANOW, self._before)
            with contextlib.suppress(OSError):
                self._write(LEAVE)
            self._before = None

    # -- stopped and continued ----------------------------------------------------------

    def _note_stop(self, *_: object) -> None:
        self._must_stop = True

    def _note_continuation(self, *_: object) -> None:
        self._was_stopped = True

    def wake(self) -> None:
        """Make ``reader`` readable; any thread may call this."""
        with contextlib.suppress(OSError):  # it is full, or closed
            os.write(self._writer, b'.')

    def obey(self) -> None:
        """Do what signals have asked for: stop this process, or set the terminal up again.

        Call this when ``reader`` is readable.
        """
        with contextlib.suppress(BlockingIOError):
            while os.read(self.reader, 4096):
                pass
        if self._must_stop:
            self._must_stop = False
            self.restore()
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            # To this thread: then the process stops before the call returns.
            signal.pthread_kill(threading.get_ident(), signal.SIGTSTP)
            signal.signal(signal.SIGTSTP, self._note_stop)
            self._was_stopped = True
        if self._was_stopped:
            self._was_stopped = False
            self.set_up()

    # -- drawing ------------------------------------------------------------------------

    @property
    def size(self) -> tuple[int, int]:
        """The columns and the rows of the terminal, at least 20 and 3."""
        size = USUAL_SIZE
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(1)
        columns, rows = (
            one or usual for one, usual in zip(size, USUAL_SIZE, strict=True)
        )
        return max(columns, 20), max(rows, 3)

    def draw(self, lines: list[Line], footer: list[Line]) -> None:
        """Show lines at the top and the footer at the bottom, each cut to the terminal."""
        columns, rows = self.size
        room = rows - len(footer)
        if len(lines) > room:
            hidden = len(lines) - room + 1
            more = f'… {hidden} more lines'
            lines = [*lines[: max(room - 1, 0)], lines[0]._replace(text=more)]
        empty = lines[:1] and [lines[0]._replace(text='', style='')]
        lines = lines[:room] + empty * (room - len(lines)) + footer
        drawn = f'{END_OF_LINE}\r\n'.join(self._paint(line, columns) for line in lines)
        self._write(f'{HOME}{drawn}{END_OF_LINE}{BELOW}')

    def _paint(self, line: Line, columns: int) -> str:
        text = encodable(cut(printable(line.text), columns), sys.stdout)
        colour = COLOURS.get(line.style, '') if self.colours else ''
        return f'{colour}{text}{NO_COLOUR}' if colour else text

    def _write(self, text: str) -> None:
        rest = text.encode(sys.stdout.encoding or 'utf-8', 'backslashreplace')
        while rest:
            rest = rest[os.write(1, rest) :]
