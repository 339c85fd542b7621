"""A site of one process that hangs in a line of its own: its stop still ends in time."""

import signal
import time

from tests.kit import eventually
from tests.kit.processes import asleep
from tests.kit.sites import APP, SERVED
from tests.kit.stalled import Stalled

INI = SERVED + '\n[wspbus:main]\nstop_timeout = 2\nsignal.SIGUSR2 = shout\n'

SHOUTS = (
    APP
    + """
from paste_wspbus import get_bus


def make(global_conf):
    bus = get_bus(global_conf)
    bus.subscribe('shout', shout)
    return app


def shout():
    with open('shouts', 'w'):
        pass
    os.write(2, b'x' * 1_000_000)
"""
)


def test_sigterm_ends_a_process_whose_main_thread_hangs_in_a_write(tmp_path):
    with Stalled(tmp_path, 'stderr', INI, app=SHOUTS) as site:
        site.process.send_signal(signal.SIGUSR2)
        eventually((tmp_path / 'shouts').exists)
        eventually(lambda: asleep(site.process.pid))
        began = time.monotonic()
        assert site.end() == 70
        assert time.monotonic() - began < 15
