"""The code that the tests share; README.md says what each module has."""

from tests.kit.clients import Connection, Response, free_port, is_free
from tests.kit.processes import BIN, TIMEOUT, Output, Process, eventually
from tests.kit.sites import COMMANDS, Site, run, write

__all__ = [
    'BIN',
    'COMMANDS',
    'TIMEOUT',
    'Connection',
    'Output',
    'Process',
    'Response',
    'Site',
    'eventually',
    'free_port',
    'is_free',
    'run',
    'write',
]
