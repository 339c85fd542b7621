"""The Web Site Process Bus: `Bus` is the API, and each other file owns one mechanism of it."""

from paste_wspbus.bus.bus import Bus
from paste_wspbus.bus.calls import Call
from paste_wspbus.bus.channels import Channel, ChannelFailures, Listener
from paste_wspbus.bus.lifespans import Lifespan
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
