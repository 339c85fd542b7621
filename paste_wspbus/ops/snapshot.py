"""What the ops listener knows of the site at one moment, and how old it is."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from paste_wspbus.metrics.families import Sums
    from paste_wspbus.ops.health import Checked


class State(NamedTuple):
    """The state of the site, as the process knows it that starts and stops the site.

    ``name`` is that of the bus's state. ``renewing`` says whether a graceful restart or a
    restart in place is in progress, during which the site takes requests. ``serving`` and ``wanted`` are numbers of workers;
    None if the site has one process. ``since`` is the time.monotonic() of the change.
    """

    name: str = 'STOPPED'
    was_started: bool = False
    drained: bool = False
    renewing: bool = False
    serving: int | None = None
    wanted: int | None = None
    since: float = 0.0

    @property
    def is_stopping(self) -> bool:
        """Whether the site stops, and does not come back as the same site."""
        return self.name in ('DRAINING', 'STOPPING', 'EXITING') and not self.renewing

    @property
    def is_serving(self) -> bool:
        """Whether the site takes requests: during a restart they only wait a little."""
        if self.renewing:
            return True
        return self.name == 'STARTED' and self.serving != 0


class Told(NamedTuple):
    """An answer of the site to a question of the listener, and its time.monotonic()."""

    value: Any
    at: float

    @property
    def age(self) -> float:
        """Seconds since the answer came."""
        return max(round(time.monotonic() - self.at, 3), 0.0)


class Numbers(NamedTuple):
    """The sources of the metrics.

    ``read`` returns what the site has counted, at once. ``folder`` is that of the site's
    own metrics; None if it has none.
    """

    read: Callable[[], Sums]
    folder: str | None = None


class Snapshot:
    """What is known of the site.

    :param told: the last answer of each kind: 'status', 'stacks', 'timeline', and 'numbers',
        a status without the machines of a cluster: the engine is not asked for them at each
        look of Prometheus.
    :param checked: the health checks of each process.
    :param waits_for: the seconds for which the supervisor has not answered; 0 if it has.
    :param numbers: where the metrics come from; None if nothing is counted.
    """

    def __init__(
        self,
        state: State,
        told: Mapping[str, Told],
        checked: Sequence[Checked] = (),
        waits_for: float = 0.0,
        numbers: Numbers | None = None,
    ) -> None:
        self.state, self.told = state, told
        self.checked, self.waits_for = checked, waits_for
        self.numbers = numbers
