"""Rolls, in the supervisor: the turn of this site, and the operators who have asked for one here."""

from __future__ import annotations

import functools
import json
import socket

from paste_wspbus.bus import State
from paste_wspbus.cluster.mail import AGAIN
from paste_wspbus.cluster.roll import DONE, FAILED, LATER, ROLLED, read_order
from paste_wspbus.control.status import followed
from paste_wspbus.unix.kernel_timer import boot_clock
from paste_wspbus.values import printable
from paste_wspbus.workers.children import WorkerFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from paste_wspbus.control.server import Connection
    from paste_wspbus.workers.cluster_mail import ClusterMail
    from paste_wspbus.workers.supervisor import Supervisor

#: The number of characters of a line that are sent to other machines.
MOST_OF_LINE = 2000

#: The number of characters that the token of a roll has at most.
MOST_OF_TOKEN = 64


class Order:
    """An order to restart, in the place of the `Connection` of an operator who waits.

    :param answer: is called with the answer of the graceful restart.
    :param enter: is called before the first old process stops: see `Renewals.enter`.
    """

    def __init__(
        self,
        soak: bool,
        answer: Callable[[dict[str, Any]], object],
        enter: Callable[[Callable[[], object]], object],
    ) -> None:
        #: The attributes that a graceful restart reads in a connection.
        self.request, self.answer, self.enter = {'soak': soak}, answer, enter


class Turn:
    """The turn of this site in a roll: it restarts gracefully, and says how far it is.

    :param ttl: seconds for which it asks whether a roll still goes on.
    """

    def __init__(self, supervisor: Supervisor, mail: ClusterMail, ttl: float) -> None:
        self.supervisor, self.mail, self._ttl = supervisor, mail, ttl
        #: The token of the last roll that this site has obeyed, and the answer to it.
        self._token = ''
        self._answer: dict[str, Any] = {'state': 'running'}
        #: The highest fence of a roll that was seen: an older one has lost its lease.
        self._fence = 0
        #: The fence with which this site wants to enter, and the answer; None before that.
        self._entering = 0
        self._may: bool | None = None
        mail.ordered, mail.entered = self._is_ordered, self._has_entered

    def _is_ordered(self, text: str, at: float) -> None:
        order = read_order(text)
        if order is None or order['fence'] < self._fence:
            return
        self._fence = order['fence']
        if order['token'] != self._token:
            if boot_clock() > at + LATER:
                # The order is too old, because this process was stopped; a roll that
                # still waits orders again.
                return
            self._token, self._answer = order['token'], {'state': 'running'}
            self._begin(order)
        self._say()

    def _begin(self, order: dict[str, Any]) -> None:
        supervisor = self.supervisor
        if supervisor.bus.state is not State.STARTED:
            state = supervisor.bus.state.name
            self._is_over(self._token, {'failed': 1, 'line': f'the site is {state}'})
            return
        by = f'a roll over all machines, by {order["by"]}'
        supervisor.bus.log(f'Asked for a graceful restart: {by}')
        supervisor.bus.asked_by = by
        ends = functools.partial(self._is_over, self._token)
        enters = functools.partial(self._enter, order['fence'])
        supervisor.renewals.ask(Order(order['soak'], ends, enters))  # type: ignore[arg-type]

    def _enter(self, fence: int, check: Callable[[], object]) -> None:
        """Wait until the engine has noted that this machine replaces its processes.

        The agent that rolls may have given up on this machine, or have died, meanwhile.

        :param check: is called again and again meanwhile; it may raise an error.
        :raises WorkerFailed: if the roll has ended, or if nobody knows.
        :raises StopRequested: if a stop of the site was requested.
        """
        self._entering, self._may = fence, None
        until = boot_clock() + self._ttl
        while self._may is None:
            if boot_clock() >= until:
                what = f'no answer from the engine for {self._ttl:g} s'
                raise WorkerFailed(
                    1, f'{what}: it is not known whether the roll continues'
                )
            self.mail.say('enter', fence)
            self._wait_for_answer(boot_clock() + AGAIN, check)
        if not self._may:
            raise WorkerFailed(1, 'the roll that has asked for it has ended')

    def _wait_for_answer(self, until: float, check: Callable[[], object]) -> None:
        events = self.supervisor.events
        timer = events.call_later(until - boot_clock(), lambda: None)
        try:
            self.supervisor.waiting.until(
                lambda: self._may is not None or boot_clock() >= until, check
            )
        finally:
            events.cancel(timer)

    def _has_entered(self, fence: int, may: bool | None) -> None:
        if fence == self._entering and may is not None:
            self._may = may

    def _is_over(self, token: str, message: dict[str, Any]) -> None:
        """Send the answer of the graceful restart to the agent that rolls."""
        if token != self._token:
            return  # another roll has ordered another restart
        generation, notes = message.get('generation'), message.get('notes') or ()
        if 'failed' in message:
            serves = 'no worker serves'
            if generation:
                serves = f'generation {generation} keeps serving'
            if message.get('mixed'):
                serves = f'{message["mixed"]}'
            elif message.get('is_new') and generation:
                serves = f'generation {generation} serves'
            state, line = FAILED, followed(str(message.get('line')), serves)
        else:
            state = DONE
            line = '. '.join([f'generation {generation} serves', *notes])
        line = line[:MOST_OF_LINE]
        self._answer = {'state': state, 'line': line, 'generation': generation}
        self._say()

    def _say(self) -> None:
        answer = {**self._answer, 'token': self._token}
        if answer['state'] == 'running':
            answer['doing'] = self._doing()
        self.mail.send(ROLLED, json.dumps(answer))

    def _doing(self) -> str:
        supervisor = self.supervisor
        new, count = len(supervisor.serving(supervisor.latest)), supervisor.count
        if not supervisor.is_renewing:
            return 'it is about to restart'
        return f'{new} of {count} workers serve generation {supervisor.latest}'


def is_gone(client: socket.socket) -> bool:
    """Return whether a client has closed its end: nobody waits for what it has asked for."""
    try:
        return not client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


class Operators:
    """Answers the operators who ask for a roll at this site, and wait for news of it.

    ``commands`` are for the control socket: ``roll`` begins one, which the command has given
    a ``token``, ``roll_news`` gets what has happened after the first ``since`` pieces of
    news, and ``stop_roll`` gives no other machine its turn in the roll of this ``token``.
    """

    def __init__(self, supervisor: Supervisor, mail: ClusterMail) -> None:
        self.bus, self.mail = supervisor.bus, mail
        #: The last roll that was asked for here, and what its machine in turn does.
        self._news: list[list[Any]] = []
        self._token, self._doing, self._said = '', ['', ''], 0
        #: The clients that wait for news.
        self._waiting: list[Connection] = []
        mail.news, mail.ended = self._is_told, self._agent_has_ended

    @property
    def commands(self) -> Mapping[str, Callable[[Connection], dict[str, Any] | None]]:
        """From each request to the method that answers it; see `control.server.Control`."""
        return {
            'roll': self._roll,
            'roll_news': self._roll_news,
            'stop_roll': self._stop_roll,
        }

    @property
    def _is_over(self) -> bool:
        return not self._token or (bool(self._news) and self._news[-1][0] == 'ends')

    def _roll(self, connection: Connection) -> dict[str, Any]:
        if self.bus.state is not State.STARTED:
            return {'error': f'the site is {self.bus.state.name}'}
        if not self._is_over:
            return {'error': 'this machine rolls already; its log says how far it is'}
        if is_gone(connection.sock):  # after Ctrl-C, while this process was stopped
            return {'error': 'the command that wants it has ended'}
        keys = 'soak', 'begin', 'token'
        soak, begin, token = (connection.request.get(key) for key in keys)
        if not isinstance(token, str) or not 0 < len(token) <= MOST_OF_TOKEN:
            return {'error': 'it has no token'}
        begin, by = begin if isinstance(begin, str) else '', connection.client
        if not self.mail.say('roll', token, soak is not False, begin[:100], by):
            return {'error': 'the process that talks to the cluster does not run'}
        self._token, self._news, self._doing = token, [], ['', '']
        self.bus.log(f'Asked for a roll over all machines: by {by}')
        return {'accepted': True}

    def _roll_news(self, connection: Connection) -> dict[str, Any] | None:
        since, said = (connection.request.get(key) for key in ('since', 'said'))
        is_new = type(since) is not int or since < len(self._news)
        if self._is_over or is_new or said != self._said:
            return self._answer(connection)
        self._waiting.append(connection)
        return None

    def _answer(self, connection: Connection) -> dict[str, Any]:
        since = connection.request.get('since')
        since = since if type(since) is int and since >= 0 else 0
        return {
            'roll': self._token,
            'news': self._news[since:],
            'doing': self._doing,
            'said': self._said,
            'over': self._is_over,
        }

    def _stop_roll(self, connection: Connection) -> dict[str, Any]:
        is_there = connection.request.get('token') == self._token
        if is_there and not self._is_over:
            self.mail.say('stop_roll')
        return {'accepted': is_there}

    def _is_told(self, token: str, word: str, *carried: Any) -> None:
        if token != self._token or self._is_over:
            return
        if word == 'doing':
            self._doing, self._said = [*carried], self._said + 1
        else:
            self._news.append([word, *carried])
            self._log(word, *carried)
        waiting, self._waiting = self._waiting, []
        for connection in waiting:
            connection.answer(self._answer(connection))

    def _log(self, word: str, *carried: Any) -> None:
        line, level = '', 20
        if word in ('done', 'failed'):
            line, level = ': '.join(carried), 20 if word == 'done' else 40
        elif word == 'stops':
            line, level = 'the operator has stopped it', 30
        elif word == 'ends' and carried[0]:
            line, level = f'it has ended: {carried[0]}', 40
        elif word == 'ends':
            line = 'all machines have restarted'
        if line:  # the other machines have reported it already
            self.bus.log(f'Roll: {printable(line)}', level)

    def _agent_has_ended(self) -> None:
        if not self._is_over:
            line = 'the process that talks to the cluster has ended'
            self._is_told(self._token, 'ends', line, [])
