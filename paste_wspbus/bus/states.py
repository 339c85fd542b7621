"""The states of a bus, and the moves between them."""

from __future__ import annotations

import enum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class State(enum.Enum):
    """What a bus is doing."""

    STOPPED = 'STOPPED'
    STARTING = 'STARTING'
    STARTED = 'STARTED'
    DRAINING = 'DRAINING'
    STOPPING = 'STOPPING'
    EXITING = 'EXITING'

    def __repr__(self) -> str:
        return f'states.{self.name}'

    def __eq__(self, other: object) -> bool:
        """Whether the other object is this state, or CherryPy's state of the same name."""
        if isinstance(other, State):
            return self is other
        return (
            type(other).__name__ == 'State' and getattr(other, 'name', '') == self.name
        )

    def __hash__(self) -> int:
        return hash(self.name)


states = State

#: The states in which a new lifespan is entered at once, and not only at a later start.
ALIVE = frozenset({State.STARTING, State.STARTED})

#: From each state, the states that may follow it.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.STOPPED: frozenset({State.STARTING, State.STOPPING, State.EXITING}),
    State.STARTING: frozenset({State.STARTED, State.STOPPING}),
    State.STARTED: frozenset({State.DRAINING, State.STOPPING}),
    State.DRAINING: frozenset({State.STOPPING}),
    State.STOPPING: frozenset({State.STOPPED}),
    State.EXITING: frozenset({State.STARTING}),
}


def states_of(state: Any) -> frozenset[State]:
    """Return one state or several as a set of `State`.

    :param state: a state of this package or of CherryPy, or a tuple, list or set of them.
    :raises KeyError: if `State` has no state of that name.
    """
    several = state if isinstance(state, (tuple, list, set, frozenset)) else (state,)
    return frozenset(State[one.name] for one in several)
