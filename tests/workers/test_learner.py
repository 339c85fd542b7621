"""What a worker reports under --reload of the modules of the site."""

import sys
from types import SimpleNamespace

from paste_wspbus.workers import learner
from paste_wspbus.workers.learner import EARLY, EARLY_SHARE, Learner


def test_early_looks_at_all_modules_take_a_small_part_of_a_load(monkeypatch, tmp_path):
    """A look takes longer the more modules there are, and longer on a busy machine."""
    clock, looks, look = SimpleNamespace(now=100.0), [], EARLY

    def imported(known):
        looks.append(set(sys.modules) - set(known))
        clock.now += look
        return ['a.package']

    reports = []
    monkeypatch.setattr(learner, 'imported', imported)
    monkeypatch.setattr(learner.time, 'monotonic', lambda: clock.now)
    notes = Learner()
    notes.report_early(SimpleNamespace(learnt=lambda *what: reports.append(what)))
    began = clock.now
    for number in range(2000):
        clock.now += EARLY / 2
        notes.files.add(tmp_path / f'module{number}.py')
    assert 5 < len(looks) <= (clock.now - began) / (look * EARLY_SHARE) + 1
    assert reports == [([], ['a.package'])] * len(looks)
    assert looks[-1] == set()  # what was looked at once is not looked at again
