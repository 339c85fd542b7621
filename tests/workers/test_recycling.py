"""Recycling: when a worker is replaced, and what is seen of that."""

import re
import signal

import pytest

from paste_wspbus.workers.plan import Plan
from paste_wspbus.workers.recycling import JITTER, Seen, reason
from tests.kit import eventually
from tests.kit.clients import Clients
from tests.kit.processes import children
from tests.kit.supervised import has_cleaned_up
from tests.kit.workers import AT_GATE, FILES, INI, Workers, open_gate, set_up

M = 1 << 20
PLAN = Plan(
    workers=2,
    restarts=True,
    preload=False,
    site_plugins=False,
    start_timeout=60,
    stop_timeout=60,
)


def why(limits, share=1.0, served=None, memory=None, age=0.0):
    return reason(PLAN._replace(**limits), share, Seen(served, memory, age))


def test_without_limits_nobody_is_replaced():
    assert why({}, served=10**9, memory=1 << 40, age=1e9) is None


@pytest.mark.parametrize(
    'served, share, is_replaced',
    [
        (999, 1.0, False),
        (1000, 1.0, True),
        (900, 1 - JITTER, True),
        (899, 1 - JITTER, False),
        (None, 1.0, False),
    ],
)
def test_the_requests_count_from_a_limit_of_its_own(served, share, is_replaced):
    told = why({'max_requests': 1000}, share, served=served)
    assert (told is not None) == is_replaced
    if told is not None:
        assert f'{served} requests (max_requests = 1000, ' in told


@pytest.mark.parametrize(
    'memory, is_replaced', [(300 * M, False), (301 * M, True), (None, False)]
)
def test_the_memory_counts_from_one_limit_for_all(memory, is_replaced):
    told = why({'max_memory': 300 * M}, 1 - JITTER, memory=memory)
    assert (told is not None) == is_replaced
    if told is not None:
        assert told == 'uses 301M of memory (max_memory = 300M)'


@pytest.mark.parametrize('age, is_replaced', [(3239, False), (3240, True)])
def test_the_age_counts_from_a_limit_of_its_own(age, is_replaced):
    told = why({'max_age': 3600.0}, 1 - JITTER, age=age)
    assert (told is not None) == is_replaced


GROWS = """
GROWN = []
PAGES['/grow'] = lambda environ: GROWN.append(b'x' * (120 << 20))
"""


def recycles(folder, keys, **kwargs):
    files = {
        'webapp.py': FILES['webapp.py'] + GROWS,
        'site.ini': INI.replace('soak = 0', f'soak = 0\n{keys}'),
    }
    return Workers(folder, files=files, **kwargs)


def recycled(site):
    return [one['recycled'] for one in site.workers() if one['number']]


@pytest.mark.parametrize('preload', ['false', 'true'])
def test_all_are_replaced_under_load_one_at_a_time(tmp_path, preload):
    keys = f'max_requests = 20\npreload = {preload}'
    with recycles(tmp_path, keys) as site, Clients(site, count=2) as clients:
        before = set(site.pids())
        eventually(lambda: min(recycled(site), default=0) >= 1)
        clients.stop()
        assert clients.failures == []
        forkers = {one['pid'] for one in site.workers() if not one['number']}
        assert (before & set(site.pids())) == forkers
        told = site.run('status').out.text
        assert re.search(
            r'^Worker 1 was recycled .*: it served \d+ requests', told, re.M
        )
        why = site.workers()[0]['last_recycling']['why']
        assert site.stop()[0] == 0
        assert has_cleaned_up(site)
    assert f'{why}: a new process takes its place' in site.err.text
    # Each began when the one before had ended.
    turns = re.findall(r'(takes its place)|^(closed) \d+$', site.err.text, re.M)
    words = [took or closed for took, closed in turns]
    assert words[:4] == ['takes its place', 'closed'] * 2
    assert 'crashed' not in site.err.text


def test_a_worker_that_grows_is_replaced_and_a_graceful_is_first(tmp_path):
    with recycles(tmp_path, 'max_memory = 100M', count=1) as site:
        (old,) = site.pids()
        set_up(tmp_path, at_composition=AT_GATE)
        site.get('/grow')
        site.expect('(max_memory = 100M): a new process takes its place')
        site.expect('composing')
        (early,) = set(children(site.pid)) - {old}
        site.send(signal.SIGHUP)
        site.expect('composing', 2)
        eventually(lambda: early not in children(site.pid))  # its turn is over
        open_gate(tmp_path)
        eventually(lambda: site.status()['generation'] == 2)
        assert old not in site.pids()
        assert site.stop()[0] == 0
        assert has_cleaned_up(site)


def test_a_limit_that_no_process_can_keep_is_told_once(tmp_path):
    with recycles(tmp_path, 'max_memory = 1M\nmax_age = 1h', count=1) as site:
        before = site.pids()
        site.expect('max_memory = 1M is too little, and does not count for it')
        assert site.pids() == before
        assert site.stop()[0] == 0
    assert site.err.text.count('is too little') == 1
