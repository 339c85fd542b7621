"""What the supervisor tells the process of the ops listener about the site."""

from types import SimpleNamespace

import pytest

from paste_wspbus.bus import State
from paste_wspbus.ops.pages import why_not_ready
from paste_wspbus.ops.snapshot import Snapshot
from paste_wspbus.workers.ops_feed import OpsFeed


@pytest.mark.parametrize(
    'under_reload, serving, why',
    [
        (False, 1, ''),
        (False, 0, 'no worker serves'),
        (True, 0, ''),  # requests wait for the process that starts
    ],
)
def test_a_graceful_restart_makes_no_dead_site_ready(under_reload, serving, why):
    supervisor = SimpleNamespace(
        children=SimpleNamespace(hear=lambda *args: None),
        bus=SimpleNamespace(state=State.STARTED, was_started=True, drained=False),
        strategy=SimpleNamespace(replaces=not under_reload),
        serving=lambda: [None] * serving,
        is_renewing=True,
        count=2,
    )
    state = OpsFeed(supervisor, None)._state()
    assert why_not_ready(Snapshot(state, {})) == why
