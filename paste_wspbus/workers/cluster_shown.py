"""The facts about this machine that the others see: they are sent when they have changed."""

from __future__ import annotations

from paste_wspbus.cluster.facts import Release, bounded
from paste_wspbus.role import CLUSTER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.workers.clustered import Clustered


class Shown:
    """Looks before each sleep of the supervisor whether something has changed.

    :param began: when the supervisor began (time.time()).
    """

    def __init__(self, cluster: Clustered, began: float) -> None:
        self._cluster, self._began = cluster, began
        self._supervisor = cluster.supervisor
        self._sent: dict[str, Any] = {}
        #: From the generation that serves, and from the one that was tried last, to its code.
        self._releases: dict[int, Release] = {}
        cluster.events.before_sleep.append(self.look)

    def forget(self) -> None:
        """Send all facts at the next look: a new agent has none of them."""
        self._sent = {}

    def look(self) -> None:
        """Send the facts if they have changed; this comes before each sleep, and costs little."""
        facts = self._all()
        if facts != self._sent:
            self._sent = facts
            self._cluster.record(bounded(facts))

    def release(self) -> Release:
        """Return which code the generation runs that serves.

        The link to the release may lead to another one since then.
        """
        supervisor = self._supervisor
        if supervisor.latest not in self._releases:
            serving = self._releases.get(supervisor.generation)
            self._releases.clear()
            if serving is not None:
                self._releases[supervisor.generation] = serving
            self._releases[supervisor.latest] = supervisor.plan.release or Release()
        return self._releases.get(supervisor.generation, Release())

    def facts(self) -> dict[str, Any]:
        """Return what this site says of itself: see `cluster.facts`."""
        return bounded(self._all())

    def _all(self) -> dict[str, Any]:
        supervisor, bus = self._supervisor, self._supervisor.bus
        leader = supervisor.current.get(CLUSTER)
        leads = leader is not None and leader.is_ready and not leader.leaving
        return {
            **self.release()._asdict(),
            'generation': supervisor.generation,
            'state': bus.state.name,
            'renewing': supervisor.is_renewing,
            'drained': bus.drained,
            'serving': len(supervisor.serving()),
            'wanted': supervisor.count,
            'since': round(self._began, 3),
            'ttl': self._cluster.settings.ttl,
            'leads': supervisor.plan.cluster_plugins if leads else (),
        }
