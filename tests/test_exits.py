"""The exit codes: each error that the command prints has the one that the table says."""

import re
import signal
from pathlib import Path

import pytest

import paste_wspbus
from paste_wspbus import bus, errors, exits
from paste_wspbus.command import finding, start, status
from paste_wspbus.control import stop
from paste_wspbus.unix import daemonizing, pid_lock, processes, users

CODES = [
    (errors.WSPBusError, exits.FAILED),
    (errors.UsageError, exits.USAGE),
    (errors.ConfigError, exits.USAGE),
    (errors.SettingError, exits.USAGE),
    (errors.FactoryError, exits.FAILED),
    (errors.BindError, exits.FAILED),
    (pid_lock.GarbagePIDFile, exits.USAGE),
    (pid_lock.ForeignPIDFile, exits.USAGE),
    (pid_lock.AlreadyRunning, exits.FAILED),
    (daemonizing.ThreadsAlive, exits.FAILED),
    (users.PrivilegesKept, exits.FAILED),
    (processes.NotPermitted, exits.NOT_PERMITTED),
    (stop.DoesNotDie, exits.DOES_NOT_DIE),
    (start.OtherStartFailed, exits.FAILED),
]


@pytest.mark.parametrize(('error', 'code'), CODES, ids=lambda one: str(one))
def test_each_error_exits_with_the_code_of_its_kind(error, code):
    assert error.exit_code == code


@pytest.mark.parametrize(
    ('state', 'code'),
    [
        (finding.RUNNING, 0),
        (status.GUNICORNS, 0),
        (finding.DEAD, 1),
        (finding.NOT_RUNNING, 3),
        (finding.UNKNOWN, 4),
    ],
)
def test_status_exits_with_the_codes_of_the_linux_standard_base(state, code):
    assert status.EXIT_CODES[state] == code


def test_the_codes_of_signals_are_those_that_shells_report():
    assert exits.of_signal(signal.SIGTERM) == exits.TERMINATED
    assert exits.of_signal(signal.SIGINT) == exits.INTERRUPTED


def test_the_bus_forces_an_exit_with_the_code_of_the_table():
    assert bus.EX_SOFTWARE == exits.EX_SOFTWARE


@pytest.mark.parametrize('room', ['command', 'control', 'unix'])
def test_nobody_spells_an_exit_code_as_a_number(room):
    for path in Path(paste_wspbus.__file__).parent.joinpath(room).glob('*.py'):
        assert not re.findall(
            r'exit_code = \d|os\._exit\([1-9]|128 \+', path.read_text()
        )
