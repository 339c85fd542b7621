"""Decides which workers hang, from what is seen of them and of the machine; it does no I/O."""

from __future__ import annotations

import enum
from typing import NamedTuple

from paste_wspbus.unix.processes import traced_by

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

#: Seconds between two looks at the workers at most and at least, and the part of
#: ``hung_after`` that they are otherwise.
MOST, LEAST, SHARE = 5.0, 0.1, 1 / 6

#: Seconds by which a look may be late. If it is later, the supervisor itself did not run.
LATE = 1.0

#: Seconds by which CLOCK_BOOTTIME may run ahead of CLOCK_MONOTONIC between two looks: they
#: are not read at the same moment.
APART = 0.5

#: The part of a time that counts while the control group was throttled. It is not 0: a
#: worker that hangs in a loop is often what uses up the group's share of the CPU.
THROTTLED = 1 / 4


class Verdict(enum.Enum):
    """What is to be done about a worker."""

    #: Log its stacks: it has not answered for half of the time.
    SHOW = 'show'
    #: Log why it is not taken for one that hangs.
    EXCUSE = 'excuse'
    #: All workers hang: log that, and wait once more.
    WAIT = 'wait'
    #: Replace it.
    REPLACE = 'replace'


class Machine(NamedTuple):
    """The machine at a look. None stands for what the system does not say.

    ``now`` is the time.monotonic(), ``boottime`` the CLOCK_BOOTTIME (it goes on while the
    machine sleeps), in seconds. ``throttled`` counts how often the control group of the
    site had used up its CPU time (nr_throttled).
    """

    now: float
    boottime: float | None = None
    throttled: int | None = None


class Seen(NamedTuple):
    """A worker at a look.

    ``asked_since`` is the time.monotonic() of a question that it has not answered; None
    if it has answered all. ``is_stopped`` says whether a signal such as SIGSTOP has stopped
    it, ``tracer`` which process traces it (0 stands for none). ``debugger`` is the debugger
    that its last answer named; '' stands for none.
    """

    asked_since: float | None = None
    is_stopped: bool = False
    tracer: int = 0
    debugger: str = ''

    @property
    def excuse(self) -> str:
        """Why it does not hang although it does not answer; '' if nothing is known."""
        # The tracer has stopped the process, too, if the process is stopped.
        if self.tracer:
            return traced_by(self.tracer)
        if self.is_stopped:
            return 'a signal has stopped it, and SIGCONT lets it continue'
        if self.debugger:
            return f'a debugger runs in it ({self.debugger})'
        return ''


class _Silence:
    """A worker that has not answered: since which question, and how long that counts."""

    def __init__(self, since: float) -> None:
        self.since, self.counted = since, 0.0
        #: Whether its stacks, and the reason why it does not hang, were logged.
        self.is_shown = self.is_excused = False


class Hanging:
    """Counts for how long each worker has not answered, and says what is to be done.

    Only the time in which the worker could have answered, and in which the supervisor
    would have noticed it, counts.

    :param hung_after: seconds without an answer after which a worker hangs.
    """

    def __init__(self, hung_after: float) -> None:
        self.hung_after = hung_after
        #: Seconds between two looks.
        self.every = min(max(hung_after * SHARE, LEAST), MOST)
        self._before: Machine | None = None
        self._silent: dict[Hashable, _Silence] = {}
        #: Whether this has waited once more because all workers hung.
        self._has_waited = False

    def silence(self, worker: Hashable) -> float:
        """Return the seconds that count for a worker; 0 if it has answered."""
        known = self._silent.get(worker)
        return known.counted if known is not None else 0.0

    def look(
        self, machine: Machine, workers: Mapping[Hashable, Seen], may_replace: bool
    ) -> list[tuple[Hashable, Verdict]]:
        """Decide on all workers that are READY.

        :param may_replace: whether a worker may be replaced now. If not, a later look
            decides that.
        :returns: what is to be done, and about which worker. At most one is replaced.
        """
        self._count(machine, workers)
        half, verdicts = self.hung_after / 2, []
        for worker, silence in self._silent.items():
            excuse = workers[worker].excuse
            if excuse:
                silence.counted, silence.is_shown = 0.0, False
                if not silence.is_excused and machine.now - silence.since >= half:
                    silence.is_excused = True
                    verdicts.append((worker, Verdict.EXCUSE))
            elif silence.counted >= half and not silence.is_shown:
                silence.is_shown = True
                verdicts.append((worker, Verdict.SHOW))
        return verdicts + self._hung(workers, may_replace)

    def _hung(
        self, workers: Mapping[Hashable, Seen], may_replace: bool
    ) -> list[tuple[Hashable, Verdict]]:
        # After a wait for all of them, their times are equal: the one that hangs
        # longest comes first.
        longest = max(
            self._silent,
            key=lambda worker: (self.silence(worker), -self._silent[worker].since),
            default=None,
        )
        if longest is None or self.silence(longest) < self.hung_after:
            return []
        all_hang = all(self.silence(one) >= self.hung_after / 2 for one in workers)
        if all_hang and len(workers) > 1 and not self._has_waited:
            self._has_waited = True
            for silence in self._silent.values():
                silence.counted = 0.0
            return [(longest, Verdict.WAIT)]
        return [(longest, Verdict.REPLACE)] if may_replace else []

    def _count(self, machine: Machine, workers: Mapping[Hashable, Seen]) -> None:
        """Add the time since the look before to what counts for each silent worker."""
        before, self._before = self._before, machine
        share = 0.0 if before is None else self._share(before, machine)
        silent = {}
        for worker, seen in workers.items():
            if seen.asked_since is None:
                self._has_waited = False
                continue
            known = self._silent.get(worker)
            if known is None or known.since != seen.asked_since:
                if known is not None:  # it has answered, and is asked again
                    self._has_waited = False
                known = _Silence(seen.asked_since)
            if before is not None:
                begin = max(before.now, known.since)
                known.counted += max(machine.now - begin, 0.0) * share
            silent[worker] = known
        self._silent = silent

    def _share(self, before: Machine, machine: Machine) -> float:
        """Return which part of the time between two looks counts, from 0 to 1."""
        passed = machine.now - before.now
        if passed > self.every + LATE:
            return 0.0  # the supervisor was late: answers may wait that it has not read
        if machine.boottime is not None and before.boottime is not None:
            slept = machine.boottime - before.boottime - passed
            if slept > APART:
                return 0.0
        if (machine.throttled or 0) > (before.throttled or 0):
            return THROTTLED
        return 1.0
