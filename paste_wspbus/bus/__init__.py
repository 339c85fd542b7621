"""The Web Site Process Bus: `Bus` is the API, and each other file owns one mechanism of it."""

from paste_wspbus.bus.bus import Bus
from paste_wspbus.bus.calls import Call
from paste_wspbus.bus.channels import Channel, ChannelFailures, Listener
from paste_wspbus.bus.states import TRANSITIONS, State, states
from paste_wspbus.errors import (
    IllegalTransition,
    LifespanRefused,
    NameTaken,
    RestartImpossible,
    TimedOut,
    WouldDeadlock,
    WSPBusError,
)
from paste_wspbus.exits import EX_SOFTWARE, exit_code_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.bus.lifespan import Lifespan

__all__ = [
    'EX_SOFTWARE',
    'TRANSITIONS',
    'Bus',
    'Call',
    'Channel',
    'ChannelFailures',
    'IllegalTransition',
    'Lifespan',
    'LifespanRefused',
    'Listener',
    'NameTaken',
    'RestartImpossible',
    'State',
    'TimedOut',
    'WSPBusError',
    'WouldDeadlock',
    'exit_code_of',
    'states',
]

if not TYPE_CHECKING:  # otherwise type checkers would accept any name

    def __getattr__(name):
        """Import `Lifespan` when it is first used (PEP 562): few sites need its module.

        :raises AttributeError: if it is another name.
        """
        if name != 'Lifespan':
            raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
        from paste_wspbus.bus.lifespan import Lifespan

        return Lifespan
