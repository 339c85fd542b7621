"""The subcommand ``graceful``: the site restarts, and loses no request."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
import threading
import time

from paste_wspbus.command.answer import print_answer
from paste_wspbus.command.finding import (
    DEAD,
    NOT_RUNNING,
    Found,
    NotDone,
    find,
    why,
)
from paste_wspbus.control.client import NoAnswer, ask, connect, receive, send
from paste_wspbus.control.progress import ProgressLine
from paste_wspbus.control.stacks import where_it_starts
from paste_wspbus.control.status import (
    in_flight,
    number,
    plural,
    process_of,
    text,
    texts,
    what_it_waits_for,
    workers_of,
)
from paste_wspbus.exits import DONE, FAILED, INTERRUPTED
from paste_wspbus.unix.processes import OtherProcess, why_silent
from paste_wspbus.values import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from paste_wspbus.process.options import Options

#: Seconds between two checks of a site that starts.
LOOK = 0.05

#: Seconds without an answer after which a running site counts as hanging.
SILENCE = 300.0

#: Seconds within which a running site must have a control socket, and answer correctly.
SOON = 10.0

#: Seconds of a load after which the command says where it is.
LONG = 2.0

#: Seconds without an answer after which the command says so.
SILENT = 3.0


def graceful(options: Options) -> int:
    """Restart the site without losing a request; first wait until the site has started.

    :returns: 0 when the new generation serves (with --no-wait, when the site has the
        request); 130 after Ctrl-C, which does not end the restart.
    :raises NotDone: with the exit code of the new generation if it failed; with 1 if no
        site runs. LSB's code 7, "not running", is for programs that this command would
        have had to start.
    """
    if options.cluster:
        from paste_wspbus.command.roll import roll

        return roll(options)
    found = find(options)
    if found.error is not None:
        raise found.error
    if found.state == DEAD:
        raise NotDone(f'The site is not running: {found.problem}')
    if found.state == NOT_RUNNING:
        raise NotDone(f'The site is not running ({found.problem}).')
    if found.is_gunicorns and found.pid:
        try:
            # The process holds the lock of the PID file, so it is the right process.
            os.kill(found.pid, signal.SIGHUP)
        except OSError as error:
            raise NotDone(f'gunicorn{found.who}: {error.strerror}') from None
        print_answer(
            f'gunicorn{found.who} was asked to reload; its log says how that ended.'
        )
        return DONE
    found.check_answers()
    restart = Graceful(options, found)
    try:
        line = restart.run(not options.no_wait, not options.no_soak)
        restart.progress.end()
        print_answer(line)
    except KeyboardInterrupt:
        restart.progress.end()
        if not restart.asked:
            raise
        line = 'The graceful restart continues; `status` shows how far it is.'
        print(line, file=sys.stderr, flush=True)
        return INTERRUPTED
    finally:
        restart.progress.end()
    return DONE


class Graceful:
    """One graceful restart of one site, seen from outside."""

    def __init__(self, options: Options, found: Found) -> None:
        self.options, self.found, self.progress = options, found, ProgressLine()
        #: Whether the site was asked for the restart.
        self.asked = False
        self._began = time.monotonic()
        #: Whether a line has said, where no terminal is, that the new code takes long.
        self._said = options.verbosity <= 0

    def run(self, wait: bool, soak: bool = True) -> str:
        """Ask for the restart, and wait until it has succeeded or failed.

        :param soak: whether the first new worker is watched before old ones stop.

        :returns: a line that reports the success.
        :raises NotDone: if it has failed, or the site has ended.
        """
        status = self._wait_until_started()
        self.found.pid = pid = process_of(status) or self.found.pid or 0
        process = OtherProcess(pid)
        try:
            with self._ask(wait, soak) as connection:
                answer = self._hear(connection, process)
            if 'error' in answer:
                raise NotDone(
                    f'The site{self.found.who} refuses: {text(answer["error"])}'
                )
            if 'failed' in answer:
                raise self._failed(answer)
            if not wait:
                return f'Process {pid} was asked for a graceful restart.'
            if not answer.get('restarting'):
                serves = f'Generation {text(answer.get("generation"))} serves (process {pid}).'
                return '\n'.join([*texts(answer, 'notes'), serves])
            self._wait_for_program(status, process)
            return f'The site has restarted (process {pid}).'
        finally:
            process.close()

    def _wait_until_started(self) -> dict[str, Any]:
        """Wait until the site has started: it cannot restart before. Return its status."""
        began, doing, said = time.monotonic(), 'starting', False
        while True:
            try:
                status = ask(self.found.control, 'status')
            except NoAnswer as error:
                patience = SILENCE if error.code == errno.ETIMEDOUT else SOON
                if error.code == errno.EACCES or time.monotonic() - began > patience:
                    raise self._silent(error) from None
            else:
                if status.get('state') == 'STARTED':
                    return status
                began, doing = time.monotonic(), str(status.get('state')).lower()
            if not self.found.is_there():
                raise NotDone(
                    f'The site{self.found.who} has stopped, or did not start: '
                    f'{self.found.see_log}.'
                )
            self._show(f'it is {doing}')
            if time.monotonic() - began > SILENT and not said:
                said = True
                self._say_that_it_is_silent()
            time.sleep(LOOK)

    def _say_that_it_is_silent(self) -> None:
        why_not = why_silent(self.found.pid) if self.found.pid else ''
        self.progress.end()
        line = f'The site{self.found.who} does not answer'
        line += f': {why_not}' if why_not else ''
        print(f'{line}; waiting for it.', file=sys.stderr, flush=True)

    def _silent(self, error: NoAnswer) -> NotDone:
        """Return the error that says why the site does not answer.

        :raises NotDone: if its control socket has been removed meanwhile.
        """
        found = self.found
        if error.code != errno.EACCES and not error.listens:
            find(self.options).check_answers()
        reason = why(error, found.pid)
        return NotDone(
            f'The site is running{found.who}, but does not answer: {reason}.'
        )

    def _ask(self, wait: bool, soak: bool) -> socket.socket:
        try:
            connection = connect(self.found.control, 2)
            self.asked = True
            send(connection, 'graceful', wait=wait, **{} if soak else {'soak': False})
        except NoAnswer as error:
            raise self._silent(error) from None
        return connection

    def _hear(self, connection: socket.socket, process: OtherProcess) -> dict[str, Any]:
        """Wait for the answer, which may take minutes, and return it."""
        look = time.monotonic() + 1
        while not process.is_gone_within(look - time.monotonic(), [connection]):
            if select.select([connection], [], [], 0)[0]:
                break
            look = time.monotonic() + 1
            if self.progress.is_seen or not self._said:
                self._show_progress()
        with contextlib.suppress(NoAnswer):
            answer = receive(connection)
            if answer is not None:
                return answer
        if process.is_gone_within(1):
            raise NotDone(f'The site{self.found.who} is gone: {self.found.see_log}.')
        raise NotDone(f'The site{self.found.who} gave no answer: {self.found.see_log}.')

    def _failed(self, answer: dict[str, Any]) -> NotDone:
        code, who_serves = answer['failed'], ''
        if answer.get('serves'):
            who_serves = f', {text(answer["serves"])} keeps serving'
        elif answer.get('mixed'):
            who_serves = f' half-way ({text(answer["mixed"])})'
        elif answer.get('generation') is not None:
            who_serves = f', generation {text(answer["generation"])} keeps serving'
        elif 'generation' in answer:
            who_serves = ', and no worker serves'
        line = text(answer.get('line') or self.found.see_log)
        if answer.get('log'):
            line += f' (the traceback is in {text(answer["log"])})'
        if answer.get('is_new') and answer.get('generation') is not None:
            generation = text(answer['generation'])
            return NotDone(
                f'Generation {generation} serves, but a part of it failed: {line}'
            )
        return NotDone(
            f'The graceful restart failed{who_serves}: {line}',
            code if isinstance(code, int) and 0 < code < 256 else FAILED,
        )

    def _wait_for_program(self, before: dict[str, Any], process: OtherProcess) -> None:
        """Wait until the program that replaces the process has started."""
        heard = time.monotonic()
        failure = Failure(self.found.control, process)
        while True:
            if process.is_gone_within(LOOK):
                why_not = failure.line() or f'{self.found.see_log}.'
                raise NotDone(f'The site did not start again: {why_not}')
            silence = time.monotonic() - heard
            try:
                status = ask(self.found.control, 'status', 1)
            except NoAnswer as error:
                patience = SILENCE if error.listens else SOON
                if error.code == errno.EACCES or silence > patience:
                    raise self._silent(error) from None
                self._show(what_it_waits_for({}))
                continue
            is_new = status.get('since') != before.get('since')
            if is_new and status.get('state') == 'STARTED':
                return
            if is_new or status.get('state') != 'STARTED':
                heard = time.monotonic()
            elif silence > SOON:
                raise NotDone(
                    f'The site{self.found.who} does not restart: {self.found.see_log}.'
                )
            self._show('it is starting' if is_new else what_it_waits_for(status))

    def _show_progress(self) -> None:
        status: dict[str, Any] = {}
        with contextlib.suppress(NoAnswer):
            status = ask(self.found.control, 'status', 1)
        what = '; '.join(_under_way(status)) or what_it_waits_for(status)
        if _takes_long(status) and (place := self._place()):
            what += f', at {place}'
        self._show(what)
        if _takes_long(status) and not self.progress.is_seen:
            self._said = True
            print(self._line(what), file=sys.stderr, flush=True)

    def _place(self) -> str:
        """Return the line where the new code is, or ''."""
        with contextlib.suppress(NoAnswer):
            return where_it_starts(ask(self.found.control, 'stacks', 2))
        return ''

    def _show(self, what: str) -> None:
        self.progress.show(self._line(what))

    def _line(self, what: str) -> str:
        seconds = time.monotonic() - self._began
        return printable(f'Graceful restart, {seconds:.0f} s: {what}')


class Failure:
    """Learns from a site that replaces its program why the next program does not start.

    A thread waits for that: when the program that it has asked ends, it asks the next one
    at once, which may fail a moment later.

    :param control: the path of its control socket.
    :param process: the process; the thread ends when it has ended.
    """

    def __init__(self, control: str, process: OtherProcess) -> None:
        self._line, self._control, self._process = '', control, process
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def line(self) -> str:
        """Return the line that the process has reported before its end; '' if there is none."""
        self._thread.join(1)
        return self._line

    def _run(self) -> None:
        # The command ends, and does not need the answer any more.
        with contextlib.suppress(OSError, ValueError):
            self._ask()

    def _ask(self) -> None:
        while not (self._line or self._process.is_gone_within(0)):
            try:
                with connect(self._control, 1) as connection:
                    send(connection, 'failure')
                    answer = receive(connection, SILENCE) or {}
            except NoAnswer:
                time.sleep(LOOK)
            else:
                self._line = text(answer.get('line', ''))
                if answer and not self._line:  # the start has succeeded
                    time.sleep(LOOK)


def _takes_long(status: dict[str, Any]) -> bool:
    """Whether the new code has been loading for a while, or a new worker starting."""
    ages = [number(status, 'trial')]
    ages += [
        number(one, 'age')
        for one in workers_of(status)
        if one.get('state') == 'starting'
    ]
    return max((age for age in ages if age is not None), default=0) >= LONG


def _under_way(status: dict[str, Any]) -> list[str]:
    """Return what a graceful restart waits for: workers that start, then those that end."""
    starting, draining = [], []
    if (age := number(status, 'trial')) is not None:
        starting.append(f'another process loads the new code, {age:.0f} s')
    soak = status.get('soak')
    if isinstance(soak, dict) and (remaining := number(soak, 'remaining')) is not None:
        new = text(soak.get('worker'))
        starting.append(
            f'the new {new} serves beside the old workers, {remaining:.1f} s more'
        )
    for worker in workers_of(status):
        name, state = worker.get('name'), worker.get('state')
        if state == 'starting':
            starting.append(f'{name} starts, {number(worker, "age") or 0:.0f} s')
        elif state == 'draining':
            requests = plural(in_flight(worker), 'request')
            draining.append(f'{name} finishes {requests}')
    return starting + draining
