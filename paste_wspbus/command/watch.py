"""``status --watch``: the status of a site again and again, in place; keys act on the site."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from queue import Empty, SimpleQueue
from typing import NamedTuple

from paste_wspbus.command.finding import NOT_RUNNING, UNKNOWN, Found
from paste_wspbus.command.status import look, without_answer
from paste_wspbus.command.status_text import BAD, HEADING, PLAIN, Line, describe
from paste_wspbus.control.client import NoAnswer, ask
from paste_wspbus.control.status import number, text
from paste_wspbus.errors import UsageError, WSPBusError
from paste_wspbus.exits import DONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.command.screen import Screen
    from paste_wspbus.process.options import Options

#: From each key that acts on the site to the command for its control socket, and to the
#: line that is shown when the site has accepted it.
COMMANDS = {
    'g': ('graceful', 'The site was asked for a graceful restart.'),
    's': ('stacks', 'The stacks of all threads are in the log'),
    '+': ('add_worker', 'The site was asked for one more worker.'),
    '-': ('remove_worker', 'The site was asked for one worker less.'),
}

#: The last line on the screen.
KEYS = 'q quit   g graceful   s stacks   + one more worker   - one less'

#: Seconds between two looks at a site, if the command line does not say it.
INTERVAL = 1.0

#: Seconds for which the result of a key is shown.
SHOWN = 10.0


class News(NamedTuple):
    """What the thread that asks has found out: the site, its answer, the result of a key."""

    found: Found
    answer: dict[str, Any]
    result: Line | None = None


def watch(options: Options) -> int:
    """Show the status of a site until the key q, Ctrl-C or a signal ends this.

    :returns: 0.
    :raises UsageError: if there is no terminal that can do it.
    """
    _check_terminal()
    try:
        from paste_wspbus.command.screen import Screen
    except ImportError:
        raise UsageError('status --watch: this system has no termios') from None
    with Screen(colours=not os.environ.get('NO_COLOR')) as screen:
        Watch(options, screen).run()
    return DONE


def _check_terminal() -> None:
    if not (os.isatty(0) and os.isatty(1)):
        raise UsageError(
            'status --watch needs a terminal, for its input and its output: '
            'elsewhere, call status again and again'
        )
    if (os.environ.get('TERM') or 'dumb') == 'dumb':
        raise UsageError(
            'status --watch: this terminal cannot move its cursor (TERM is dumb or unset)'
        )


def _interval(options: Options) -> float:
    return INTERVAL if options.interval is None else options.interval


class Watch:
    """Shows what a thread finds out, and passes keys to that thread.

    The thread waits for the site, which may hang. So the keys are always heard.
    """

    def __init__(self, options: Options, screen: Screen) -> None:
        self.options, self.screen = options, screen
        self._keys: SimpleQueue[str] = SimpleQueue()
        self._news: SimpleQueue[News | Exception] = SimpleQueue()
        self._shown: News | None = None
        self._result, self._result_at = Line(''), -SHOWN

    def run(self) -> None:
        """Show the status until the key q, or until the terminal is closed.

        :raises Exception: what the thread has raised.
        """
        asking = Asking(self.options, self._keys, self._tell)
        threading.Thread(target=asking.run, name='status', daemon=True).start()
        continues = True
        while continues:
            try:
                self._draw()
                ready, _, _ = select.select([0, self.screen.reader], [], [], None)
                if self.screen.reader in ready:
                    self.screen.obey()
            except OSError:  # the terminal was closed
                return
            if self.screen.reader in ready:
                self._hear()
            else:
                continues = self._obey_keys()

    def _tell(self, news: News | Exception) -> None:
        self._news.put(news)
        self.screen.wake()

    def _hear(self) -> None:
        while not self._news.empty():
            news = self._news.get()
            if isinstance(news, Exception):
                raise news
            if news.result is not None:
                self._result, self._result_at = news.result, time.monotonic()
            self._shown = news

    def _obey_keys(self) -> bool:
        """Read the keys that were pressed; return whether this continues."""
        try:
            keys = os.read(0, 64).decode('latin-1')
        except OSError:  # the terminal was closed
            return False
        if not keys or 'q' in keys.lower():
            return False
        for key in keys if not keys.startswith('\x1b') else ():  # an arrow, for example
            if key in COMMANDS:
                self._keys.put(key)
        return True

    def _draw(self) -> None:
        columns, _ = self.screen.size
        interval, now = _interval(self.options), time.strftime('%H:%M:%S')
        title = f'{self.options.config or "status"}, every {interval:g} s, {now}'
        lines = [Line(title, HEADING), Line('')]
        if self._shown is None:
            lines.append(Line('Asking …'))
        elif self._shown.answer:
            lines += describe(self._shown.answer, self._shown.found.pid, columns)
        else:
            lines.append(Line(without_answer(self._shown.found), BAD))
        is_fresh = time.monotonic() - self._result_at < SHOWN
        result = self._result if is_fresh else Line('')
        self.screen.draw(lines, [result, Line(KEYS, HEADING)])


class Asking:
    """Asks a site for its status at intervals, and for what keys stand for: a thread.

    :param keys: the keys that were pressed.
    :param tell: gets what was found out, and the exception that ends this.
    """

    def __init__(
        self,
        options: Options,
        keys: SimpleQueue[str],
        tell: Callable[[News | Exception], None],
    ) -> None:
        self.options, self.keys, self.tell = options, keys, tell
        self._found = Found(NOT_RUNNING, '', None)

    def run(self) -> None:
        """Ask until the process ends."""
        key = ''
        try:
            while True:
                result = self._act(key) if key else None
                self._found, answer = self._look()
                self.tell(News(self._found, answer, result))
                key = ''
                with contextlib.suppress(Empty):
                    key = self.keys.get(timeout=_interval(self.options))
        except Exception as error:  # it belongs to the main thread, which ends
            self.tell(error)

    def _look(self) -> tuple[Found, dict[str, Any]]:
        try:
            return look(self.options)
        except WSPBusError as error:
            return Found(UNKNOWN, '', None).is_unknown(error), {}

    def _act(self, key: str) -> Line:
        """Ask the site for what a key stands for; return the result as a line."""
        command, done = COMMANDS[key]
        if not self._found.control:
            return Line('There is no site that could be asked.', BAD)
        try:
            answer = ask(self._found.control, command, wait=False, log=True)
        except NoAnswer as error:
            return Line(f'{command}: {error.reason}', BAD)
        if answer.get('log'):
            done = f'{done}: {text(answer["log"])}'
        if (workers := number(answer, 'workers')) is not None:
            done = f'{done} Then it has {workers:.0f}.'
        return Line(done, PLAIN)
