"""The limits of the number of workers: SIGTTIN, SIGTTOU and the control socket keep them."""

import signal
import sys

import pytest

from paste_wspbus.control.client import NoAnswer
from paste_wspbus.control.client import ask as ask_control
from tests.kit import eventually
from tests.kit.workers import Workers

#: A supervisor that allows two workers: a thousand would need more memory than there is.
LIMITED = """
import sys
import paste_wspbus.workers.resizing as resizing
from paste_wspbus.command.main import main

resizing.MAX_WORKERS = 2
sys.exit(main(sys.argv[1:]))
"""
NO_MORE = 'There are 2 workers: no more are allowed'


def test_signals_start_no_more_workers_than_are_allowed_and_the_log_says_it_once(
    tmp_path,
):
    (tmp_path / 'limited.py').write_text(LIMITED)
    command = [sys.executable, 'limited.py']
    with Workers(tmp_path, count=1, command=command) as site:
        for _ in range(6):
            site.send(signal.SIGTTIN)
            site.control('status')  # the loop has seen the signal before it
        site.expect(NO_MORE)
        with pytest.raises(NoAnswer, match='no more are allowed'):
            ask_control(str(tmp_path / 'site.pid.sock'), 'add_worker')
        eventually(lambda: [one['state'] for one in site.workers()] == ['ready'] * 2)
        assert site.err.text.count(NO_MORE) == 1
        for count in (1, 2):
            site.send(signal.SIGTTOU)
            site.expect('One worker stops: the site has 1 now', count)
            site.send(signal.SIGTTIN)
            site.expect('One more worker starts: the site has 2 now', count + 1)
        site.send(signal.SIGTTIN)
        site.expect(NO_MORE, 2)
        assert site.stop()[0] == 0, site.report()
