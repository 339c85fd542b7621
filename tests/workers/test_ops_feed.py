"""What the supervisor tells the process of the ops listener about the site."""

from types import SimpleNamespace

import pytest

from paste_wspbus.bus import State
from paste_wspbus.ops.health import rows, summary
from paste_wspbus.ops.pages import why_not_ready
from paste_wspbus.ops.snapshot import Snapshot
from paste_wspbus.role import Role
from paste_wspbus.workers.describing import checked_of
from paste_wspbus.workers.ops_feed import OpsFeed

WORKER = SimpleNamespace(asked_since=None, role=Role('worker', 1))
WITH_PROBLEM = SimpleNamespace(asked_since=None, role=Role('worker', 1, problem='why'))
SILENT = SimpleNamespace(asked_since=float('-inf'), role=Role('worker', 1))


def why(workers, is_renewing, under_reload=False):
    supervisor = SimpleNamespace(
        children=SimpleNamespace(hear=lambda *args: None),
        bus=SimpleNamespace(state=State.STARTED, was_started=True, drained=False),
        strategy=SimpleNamespace(replaces=not under_reload),
        serving=lambda: workers,
        is_renewing=is_renewing,
        count=2,
    )
    return why_not_ready(Snapshot(OpsFeed(supervisor, None)._state(), {}))


@pytest.mark.parametrize('is_renewing', [False, True])
@pytest.mark.parametrize(
    'workers, reason',
    [
        ([WORKER], ''),
        ([SILENT, WORKER], ''),
        ([], 'no worker serves'),
        ([SILENT, WITH_PROBLEM], 'no worker serves'),
    ],
)
def test_a_graceful_restart_makes_no_dead_site_ready(workers, reason, is_renewing):
    assert why(workers, is_renewing) == reason


def test_under_reload_requests_wait_for_the_process_that_starts():
    assert why([], is_renewing=True, under_reload=True) == ''
    assert why([WITH_PROBLEM], False, under_reload=True) == 'no worker serves'


@pytest.mark.parametrize('loop', ['', 'crash loop: 3 crashes in the last minute'])
def test_a_crash_loop_is_a_health_check_that_fails(loop):
    supervisor = SimpleNamespace(
        current={}, cluster=None, crashes=SimpleNamespace(loop=loop)
    )
    shown = summary(rows(checked_of(supervisor)), with_texts=True)
    assert shown['healthy'] is not bool(loop)
    checks = [
        (name, one['processes'][0]['text']) for name, one in shown['checks'].items()
    ]
    assert checks == ([('crashes', loop)] if loop else [])
