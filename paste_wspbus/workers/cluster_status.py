"""What this site knows of its cluster: the engine, the lease, the other machines."""

from __future__ import annotations

import time

from paste_wspbus.cluster.rolled import has_gone_wrong, sentences
from paste_wspbus.ops.health import NEVER
from paste_wspbus.unix.kernel_timer import boot_clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.workers.clustered import Clustered

#: Seconds for which the agent's last look counts as known; and seconds for which it is
#: not asked again.
KNOWN, FRESH = 10.0, 0.5

#: Seconds without an answer after which the agent counts as hanging: it waits for the
#: engine for a few seconds at most.
HANGS = 10.0

#: Seconds that an answer waits for the agent, if no one says otherwise.
PATIENCE = 0.3


class ClusterStatus:
    """Asks the agent what it sees, and describes what is known.

    It asks only when somebody wants to know: an idle site costs the engine nothing for this.
    """

    def __init__(self, cluster: Clustered) -> None:
        self._cluster, self._events = cluster, cluster.events
        self._machines: list[dict[str, Any]] | None = None
        self._more = 0
        #: The last roll, when it was seen (boot_clock), and the sentences on it that
        #: are in the log.
        self._roll: dict[str, Any] | None = None
        self._roll_at, self._roll_told = 0.0, ''
        #: The times (boot_clock) of the last list of machines, and of the last look at
        #: the engine.
        self._machines_at = self._looked_at = float('-inf')
        #: The functions that wait for the agent; whether it must look at all machines.
        self._waiting: list[tuple[bool, Callable[[], object]]] = []
        #: Since when the agent has not answered; None if nothing is asked.
        self._asked_since: float | None = None
        #: When the last agent has ended; None if it has not.
        self._ended_at: float | None = None

    # -- the agent ----------------------------------------------------------------------

    def ask(
        self,
        answer: Callable[[], object],
        machines: bool = False,
        patience: float = PATIENCE,
    ) -> None:
        """Call a function when the agent has looked at the engine, or is late.

        :param machines: whether it looks at all machines.
        """
        known = self._machines_at if machines else self._looked_at
        if not self._cluster.is_connected or boot_clock() < known + FRESH:
            answer()
            return
        waits = machines, answer
        self._waiting.append(waits)

        def late() -> None:
            if waits in self._waiting:
                self._waiting.remove(waits)
                if self._hangs():
                    self._cluster.words += 1  # /health shows it, too
                answer()

        self._events.call_later(patience, late)
        if self._asked_since is None:
            self._asked_since = boot_clock()
        self._cluster.look(machines)

    def has_looked(
        self,
        machines: list[dict[str, Any]] | None,
        more: int = 0,
        roll: dict[str, Any] | None = None,
    ) -> None:
        """Take note of what the agent has seen.

        :param machines: None if it has not looked at them, or if the engine is away.
        :param more: how many it has seen beside these.
        :param roll: the last roll, as `cluster.roll.seen_of` returns it.
        """
        self._asked_since, self._looked_at = None, boot_clock()
        if machines is not None:
            self._machines, self._machines_at = machines, self._looked_at
            self._more, self._roll, self._roll_at = more, roll, self._looked_at
        is_away = bool(self._cluster.engine.get('away'))
        for waits in [*self._waiting]:
            if machines is not None or is_away or not waits[0]:
                self._waiting.remove(waits)
                self._events.run(waits[1])

    def has_seen_roll(self, roll: dict[str, Any] | None) -> None:
        """Take note of a roll; log it once if it has died or failed.

        :param roll: as `cluster.rolled.seen_of` returns it.
        """
        # A roll in progress is not kept: how far it is changes all the time, so each
        # request looks anew.
        goes_on = roll is not None and roll['state'] == 'rolls'
        self._roll, self._roll_at = None if goes_on else roll, boot_clock()
        if roll is None or not has_gone_wrong(roll):
            return
        line = sentences(roll)
        if (said := sentences({**roll, 'age': 0.0})) != self._roll_told:
            self._roll_told = said
            self._cluster.bus.log(f'cluster: {line}', 40)
            self._cluster.words += 1

    def has_ended(self) -> None:
        """Call all functions that wait: the agent has ended."""
        self._ended_at = boot_clock()
        self._asked_since, waiting = None, self._waiting
        self._waiting = []
        for _, answer in waiting:
            self._events.run(answer)

    # -- what is known --------------------------------------------------------------------

    def problem(self) -> tuple[str, float | None]:
        """Return why the engine does not answer this site, and since when (boot_clock).

        The text is '' if it answers, or before the first look; the time is None if it
        never answered.
        """
        cluster, since = self._cluster, self._asked_since
        if not cluster.is_connected and self._ended_at is not None:
            return 'the process that talks to it has ended', self._ended_at
        if self._hangs():
            return 'the process that talks to it does not answer', since
        return cluster.engine.get('away') or '', cluster.engine.get('since')

    def _hangs(self) -> bool:
        since = self._asked_since
        return since is not None and boot_clock() - since > HANGS

    def check(self) -> dict[str, Any]:
        """Return a health check, as `bus.health.Check.describe`: whether the engine answers.

        It never decides whether the site is ready: without the engine, the site serves.
        """
        engine, (problem, since) = self._cluster.engine, self.problem()
        ok, text = None, ''
        if problem:
            silent = '' if since is None else f' for {boot_clock() - since:.0f} s'
            ok, text = False, f'no word{silent}: {problem}'
        elif engine:
            count, leader = engine['members'], engine['leader']
            ok, text = True, f'{count} member{"s" * (count != 1)}'
            wants = bool(self._cluster.supervisor.plan.cluster_plugins)
            if leader or (leader == '' and wants):
                text += f', {leader or "nobody"} has the lease'
            if (roll := self._seen_roll(boot_clock())) and roll['state'] == 'died':
                text += '; a roll has died: see status'
        return {
            'name': 'cluster',
            'group': 'health',
            'ok': ok,
            'text': text,
            'at': None if ok is None else time.monotonic(),
            'took': engine.get('round_trip'),
            'every': NEVER,  # a copy of this check never counts as outdated
            'timeout': 0.0,
        }

    def describe(self) -> dict[str, Any]:
        """Return what `status` shows of the cluster: docs/status.md has the keys."""
        cluster, now = self._cluster, boot_clock()
        engine, (problem, since) = cluster.engine, self.problem()
        answers = bool(engine) and not problem
        plugins = cluster.supervisor.plan.cluster_plugins
        is_fresh, rests = now < self._looked_at + KNOWN, cluster.rest.until
        leads, members = engine.get('leads'), engine.get('members')
        # If the engine has not answered for a ttl, another machine may have the lease.
        is_sure = answers and now <= (engine['since'] or 0.0) + cluster.settings.ttl
        machines = self._seen(now) if answers else None
        # The list of machines is newer than the agent's last report.
        if machines is not None and not self._more:
            members = sum(not one['is_silent'] for one in machines)
        return {
            'name': cluster.settings.name,
            'machine': cluster.member.machine,
            'id': cluster.member.id,
            'engine': cluster.settings.shown,
            'answers': answers if engine or problem else None,
            'problem': problem or None,
            'last_word': _age(now, since) if problem or is_fresh else None,
            'round_trip': engine.get('round_trip') if answers else None,
            'members': members if answers else None,
            'plugins': [*plugins],
            'holds': cluster.holds,
            'fence': cluster.held.fence if cluster.held is not None else None,
            'waits': bool(plugins) and not cluster.holds,
            'rests': None if rests is None else _age(rests, now),
            'leader': engine.get('leader') if is_sure else None,
            'leads_for': _age(now, leads) if is_sure else None,
            'machines': machines,
            'roll': self._seen_roll(now),
            'left_out': None if machines is None else self._more,
            'messages': {**cluster.mail.counts},
        }

    def _seen(self, now: float) -> list[dict[str, Any]] | None:
        """Return the machines, with their ages as they are now."""
        since, own = now - self._machines_at, self._cluster.settings.ttl
        if self._machines is None or since > KNOWN:
            return None
        found = []
        for one in self._machines:
            age = round(one['age'] + since, 3)
            is_silent = age > (one['ttl'] or own)
            found.append({**one, 'age': age, 'is_silent': is_silent})
        return found

    def _seen_roll(self, now: float) -> dict[str, Any] | None:
        """Return the last roll, with its age as it is now; None if that is not known."""
        roll, since = self._roll, now - self._roll_at
        if roll is None or (roll['state'] == 'rolls' and since > KNOWN):
            return None
        roll = {**roll, 'age': round(roll['age'] + since, 3)}
        return {**roll, 'text': sentences(roll)}


def _age(now: float, since: float | None) -> float | None:
    return None if since is None else round(max(now - since, 0.0), 3)
