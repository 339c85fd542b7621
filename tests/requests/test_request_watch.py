"""The watch over the requests of one process: what it logs without a supervisor."""

import queue
import time

from paste_wspbus.bus import Bus
from paste_wspbus.ini.units import ByPath
from paste_wspbus.requests import request_watch
from paste_wspbus.requests.examining import APPLICATION, CLIENT
from paste_wspbus.requests.marks import Limits
from paste_wspbus.requests.request_watch import RequestWatch
from paste_wspbus.requests.watched import WatchedRequests
from tests.kit import TIMEOUT


def test_a_request_that_has_waited_for_its_client_is_overdue_if_it_computes_later(
    monkeypatch,
):
    answers = iter([CLIENT, CLIENT])
    monkeypatch.setattr(request_watch, 'examine', lambda *_: next(answers, APPLICATION))
    bus, requests, lines = Bus(), WatchedRequests(), queue.SimpleQueue()
    bus.subscribe('log', lambda line, level=20: lines.put(line))
    watch = RequestWatch(bus, requests, Limits(ByPath(None, {}), ByPath(0.05, {})))
    requests.board.begin(1, time.monotonic(), 'its-id POST /upload')
    watch.start()
    line = lines.get(timeout=TIMEOUT)
    watch.stop()
    assert 'POST /upload has run for ' in line and ', past its deadline' in line
    assert [one.number for one in requests.past_deadline()] == [1]
    assert next(answers, None) is None
