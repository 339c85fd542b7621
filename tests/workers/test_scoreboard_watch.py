"""When the supervisor looks at the requests of its workers."""

from types import SimpleNamespace

from paste_wspbus.ini.units import ByPath
from paste_wspbus.requests.marks import Limits
from paste_wspbus.workers import scoreboard_watch


def test_after_the_whole_site_was_paused_requests_have_a_second_to_end(monkeypatch):
    now, planned, looks = [100.0], [], []

    def call_later(seconds, function):
        planned.append((seconds, function))

    def pass_time(seconds):
        now[0] += seconds
        planned[-1][1]()
        return len(looks), planned[-1][0]

    children = SimpleNamespace(
        hear=lambda *_: None, of_kind=lambda kind: looks.append(kind) or []
    )
    events = SimpleNamespace(call_later=call_later, cancel=lambda _: None)
    supervisor = SimpleNamespace(events=events, stacks=None, children=children)
    monkeypatch.setattr(
        scoreboard_watch, 'time', SimpleNamespace(monotonic=lambda: now[0])
    )
    watch = scoreboard_watch.ScoreboardWatch(supervisor)
    watch.use(Limits(ByPath(0.5, {}), ByPath(None, {})))
    assert pass_time(0.6) == (1, 0.5)
    assert pass_time(60) == (1, 1.0)
    assert pass_time(1.1) == (2, 0.5)
    assert pass_time(60) == (2, 1.0)
    assert pass_time(60) == (3, 0.5)  # a machine that is too busy is late each time
