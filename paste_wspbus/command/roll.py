"""The subcommand ``graceful --cluster``: one machine after the other restarts gracefully."""

from __future__ import annotations

import errno
import secrets
import sys
import time

from paste_wspbus.command.answer import in_columns, print_answer
from paste_wspbus.command.finding import (
    RUNNING,
    Found,
    NotDone,
    find,
    why,
)
from paste_wspbus.control.client import NoAnswer, ask
from paste_wspbus.control.progress import ProgressLine
from paste_wspbus.control.status import number, text
from paste_wspbus.exits import DONE, INTERRUPTED
from paste_wspbus.values import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.process.options import Options

#: The request for news, and the seconds after which it is sent again.
NEWS, WAIT = 'roll_news', 10.0

#: Seconds that a site has to answer, and to end a roll that the operator stops.
PATIENCE = 5.0

#: From each outcome to the text for it in the column ROLL of the last table.
_OUTCOMES = {
    'done': 'restarted',
    'failed': 'failed',
    'in turn': 'not known: see its log',
    'waits': 'not restarted',
}


def roll(options: Options) -> int:
    """Let all machines of the site restart, in the order of their names.

    :returns: 0 when all of them have restarted; with --no-wait, when the roll has begun; 130
        after Ctrl-C, which lets no other machine have its turn.
    :raises NotDone: with 1 if a machine has failed, or if there is no roll.
    """
    found = find(options)
    if found.error is not None:
        raise found.error
    if found.state != RUNNING:
        raise NotDone(f'The site is not running here: {found.problem}.')
    found.check_answers('it belongs to no cluster')
    one = Operator(found, options)
    try:
        one.begin()
        if options.no_wait:
            print_answer('The site was asked for a roll; its log says how it goes.')
            return DONE
        return one.follow()
    except KeyboardInterrupt:
        one.progress.end()
        print('Stopping the roll; Ctrl-C again does not wait.', file=sys.stderr)
        try:
            return one.stop()
        except KeyboardInterrupt:
            print(
                'The machine in its turn continues; it is not known whether others follow: see '
                'the log of this site.',
                file=sys.stderr,
            )
            return INTERRUPTED


class Operator:
    """Asks the site of this machine for a roll, and shows how it goes."""

    def __init__(self, found: Found, options: Options) -> None:
        self.found, self.options, self.progress = found, options, ProgressLine()
        # With a token of its own, the command can stop the roll before the site has
        # answered.
        self._token, self._since, self._said = secrets.token_hex(8), 0, 0
        #: Whether the site has accepted the roll; whether a line has said that the site
        #: hangs.
        self._has_begun = self._hangs = False
        #: The machine in its turn, and since when.
        self._turn, self._began = '', time.monotonic()
        #: The machines of the roll, those that have restarted, and the one that has failed.
        self._names: list[str] = []
        self._done: list[str] = []
        self._failed = ''
        #: Whether it is certain that no other machine gets its turn.
        self._is_stopped = False
        #: What the news ``ends`` has carried.
        self._end: tuple[str, list[dict[str, Any]]] | None = None
        #: From the name of each piece of news of `cluster.roll.Roll` to the method that
        #: takes it.
        self._heard: dict[str, Callable[..., None]] = {
            'waits': self._waits,
            'before': self._print,
            'begins': self._begins,
            'turn': self._takes_its_turn,
            'done': self._is_done,
            'failed': self._has_failed,
            'stops': self._stops,
            'ends': self._ends,
        }

    # -- asking ---------------------------------------------------------------------------

    def begin(self) -> None:
        """Ask for the roll.

        :raises NotDone: if the site refuses.
        """
        soak, begin = not self.options.no_soak, self.options.machine or ''
        self._ask('roll', token=self._token, soak=soak, begin=begin)
        self._has_begun = True

    def _ask(
        self, command: str, timeout: float = PATIENCE, **more: Any
    ) -> dict[str, Any]:
        found = self.found
        try:
            return ask(found.control, command, timeout, **more)
        except NoAnswer as error:
            if error.code == errno.ETIMEDOUT and command == NEWS:
                return {}
            reason = why(error, found.pid)
            if error.code == errno.EPROTO and 'this site speaks' in error.reason:
                needs = 'it needs workers, and [cluster:main] in its .ini'
                line = f'The site{found.who} belongs to no cluster: {needs}.'
            elif error.code == errno.EPROTO:
                line = f'The site{found.who} refuses: {error.reason}.'
            elif self._has_begun:
                line = f'The site{found.who} gives no answer any more: {reason}. '
                line += self._summary('Not restarted before that')
            else:
                line = f'The site is running{found.who}, but does not answer: {reason}.'
            raise NotDone(line) from None

    def _summary(
        self, not_restarted: str = 'Not restarted', goes_on: bool = False
    ) -> str:
        """Say in a line which machine has restarted, and which is in its turn.

        :param goes_on: whether that one goes on.
        """
        turn = f'{self._turn}, which continues' if goes_on else self._turn
        rest = [
            name
            for name in self._names
            if name not in (*self._done, self._failed, self._turn)
        ]
        said = {
            'Restarted': ', '.join(self._done),
            'Failed': self._failed,
            'In its turn': self._turn and f'{turn}: see its log',
            not_restarted: ', '.join(rest),
        }
        lines = [f'{word}: {names}.' for word, names in said.items() if names]
        return ' '.join(lines) or f'{not_restarted}: all machines.'

    # -- following ------------------------------------------------------------------------

    def follow(self) -> int:
        """Show how the roll goes, to its end.

        :raises NotDone: if it fails.
        """
        while self._end is None:
            self._read_news(WAIT)
        self.progress.end()
        line, rows = self._end
        if not (self._done or self._failed or self._turn):
            raise NotDone(f'No roll: {line}.')
        lines = table(rows) if rows else [self._summary()]
        print_answer('\n'.join(['', *lines, '']))
        if not line:
            print_answer(f'{_count(self._done, "machine")} restarted, as asked.')
            return DONE
        for advice in self._advice():
            print_answer(advice)
        raise NotDone(f'The roll has ended: {line}.')

    def stop(self) -> int:
        """Let no other machine have its turn, and say what has happened."""
        if not self._ask('stop_roll', token=self._token).get('accepted'):
            print('No roll has begun.', file=sys.stderr)
            return INTERRUPTED
        until = time.monotonic() + PATIENCE
        while self._end is None and not self._is_stopped:
            if time.monotonic() > until:
                print(
                    'Nobody has confirmed it: see the log of this site.',
                    file=sys.stderr,
                )
                return INTERRUPTED
            self._read_news(1)
        self.progress.end()
        if self._end is not None and not self._end[0]:
            return self.follow()  # the roll was over before it could be stopped
        line = f'The roll is stopped. {self._summary(goes_on=True)}'
        print(printable(line), file=sys.stderr)
        return INTERRUPTED

    def _read_news(self, seconds: float) -> None:
        """Wait for news, at most so many seconds, and show it.

        :raises NotDone: if the site has ended.
        """
        answer = self._ask(NEWS, seconds, since=self._since, said=self._said)
        if not answer:
            self._look_whether_it_hangs()
        if answer and answer.get('roll') != self._token:
            raise NotDone(
                'Another roll has begun at this site since then: see its log.'
            )
        news = answer.get('news')
        for one in news if isinstance(news, list) else ():
            self._since += 1
            word, *carried = one
            if word in self._heard:
                self._heard[word](*carried)
        self._said = answer.get('said', self._said)
        doing = answer.get('doing')
        if self._turn and isinstance(doing, list) and doing[0] == self._turn:
            took = time.monotonic() - self._began
            self.progress.show(f'{self._turn}, {took:.0f} s: {text(doing[1])}')

    def _look_whether_it_hangs(self) -> None:
        """Say once that the site does not answer: then there is no news, however the roll goes."""
        try:
            ask(self.found.control, 'status')
        except NoAnswer as error:
            if error.code == errno.ETIMEDOUT and not self._hangs:
                self._hangs = True
                self.progress.end()
                line = f'The site{self.found.who} does not answer; waiting for it. The roll'
                print(f'{line} may continue meanwhile.', file=sys.stderr, flush=True)
        else:
            self._hangs = False

    # -- what comes -----------------------------------------------------------------------

    def _waits(self, seconds: float) -> None:
        self._print(
            f'Nobody may roll yet, because nobody knows who rolled last: {seconds:.0f} s '
            'more.'
        )

    def _begins(self, names: list[str]) -> None:
        self._names = names
        self._print(f'{_count(names, "machine")}: {", ".join(names)}')

    def _takes_its_turn(self, name: str, _: str) -> None:
        self._turn, self._began = name, time.monotonic()
        self.progress.show(f'{name}: its graceful restart begins')

    def _is_done(self, name: str, line: str) -> None:
        took = time.monotonic() - self._began
        self._done.append(name)
        self._turn = ''
        self._print(f'{name}: {line} ({took:.1f} s)')

    def _has_failed(self, name: str, line: str) -> None:
        self._failed, self._turn = name, ''
        self._print(f'{name}: it has failed: {line}')

    def _stops(self, _: list[str]) -> None:
        self._is_stopped = True

    def _ends(self, line: str, rows: list[dict[str, Any]]) -> None:
        self._end = line, rows

    def _print(self, line: str) -> None:
        self.progress.end()
        print_answer(line)

    def _advice(self) -> list[str]:
        """Say what the operator can do after a roll that has failed."""
        again = f'wspserve {self.options.config} graceful --cluster'
        lines = []
        if name := self._failed:
            lines.append(f'To continue, mend {name}, and then: {again} --from {name}')
        elif name := self._turn:
            lines.append(
                f'To continue, see what {name} does, and then: {again} --from {name}'
            )
        if self._done:
            lines.append(
                'To go back, deploy the old release on the machines that have restarted, '
                f'and then: {again}'
            )
        return lines


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a table: which machine has which release."""
    names = ('MACHINE', 'ROLL', 'GENERATION', 'RELEASE', 'VERSION', 'LAST WORD')
    cells = []
    for row in rows:
        age = number(row, 'age')
        cells.append(
            (
                text(row.get('machine')),
                _OUTCOMES.get(str(row.get('outcome')), 'not in the roll'),
                *(
                    _or_unknown(row.get(key))
                    for key in ('generation', 'release', 'version')
                ),
                'none: it is gone' if age is None else f'{age:.0f} s ago',
            )
        )
    return in_columns([names, *cells])


def _or_unknown(value: object) -> str:
    return '-' if value in (None, '') else text(value)


def _count(names: list[str], noun: str) -> str:
    return f'{len(names)} {noun}{"s" * (len(names) != 1)}'
