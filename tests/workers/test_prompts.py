"""A request at the prompt of pdb: no worker is replaced because of it."""

import contextlib

import pytest

from tests.kit import eventually
from tests.kit.workers import FILES, INI, Workers

BREAKS = """
def stop_here(environ):
    answer = 6 * 7
    breakpoint()

PAGES.update({'/break': stop_here})
"""

LIMITS = 'soak = 0\nhung_after = 1\nslow_request = 0.5\nrequest_deadline = 1'


def say(site, command):
    site.process.stdin.write(f'{command}\n')
    site.process.stdin.flush()


@pytest.mark.parametrize('count', [2, 0])
def test_a_prompt_is_neither_slow_nor_overdue_and_can_be_used(tmp_path, count):
    files = {
        'webapp.py': FILES['webapp.py'] + BREAKS,
        'site.ini': INI.replace('soak = 0', LIMITS),
    }
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(Workers(tmp_path, count=count, files=files))
        client = stack.enter_context(site.connect())
        client.send('/break')
        assert site.out.wait_for('-> '), site.report()
        eventually(lambda: site.status()['requests'][0]['age'] > 2.5)
        say(site, 'print("it is", answer)')
        assert site.out.wait_for('it is 42'), site.report()
        say(site, 'continue')
        assert client.receive().status == 200
        assert site.stop()[0] == 0
    for word in ('has run for', 'past its deadline', 'hangs', 'takes its place'):
        assert word not in site.err.text
