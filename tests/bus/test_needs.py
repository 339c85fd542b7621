"""bus/needs.py: what names others starts after them and stops before them."""

import itertools
import random
import time

import pytest

from paste_wspbus.bus import Bus, State
from paste_wspbus.bus.needs import in_order
from paste_wspbus.errors import NeedError


@pytest.fixture
def said():
    return []


def lifespan(bus, said, name, **kwargs):
    @bus.lifespan(name=name, **kwargs)
    def its():
        said.append(name)
        yield
        said.append(f'-{name}')


def run(bus, said):
    """What starts, in order, after checking that the stops are the exact reverse."""
    bus.start()
    started = said[:]
    bus.exit()
    assert said[len(started) :] == [f'-{name}' for name in reversed(started)]
    return started


def test_a_need_wins_over_a_priority(said):
    bus = Bus()
    lifespan(bus, said, 'cache', priority=40, needs='db')
    lifespan(bus, said, 'log', priority=45)
    lifespan(bus, said, 'db', priority=50)
    lifespan(bus, said, 'mail', priority=50)
    assert run(bus, said) == ['log', 'db', 'cache', 'mail']


def test_parts_that_name_nothing_keep_their_places(said):
    bus = Bus()
    for name in 'abc':
        lifespan(bus, said, name, priority={'a': 60, 'b': 40}.get(name))
    lifespan(bus, said, 'd', needs=['a', 'c'])
    assert run(bus, said) == ['b', 'c', 'a', 'd']


def test_each_starts_directly_behind_the_last_one_that_it_needs(said):
    bus = Bus()
    lifespan(bus, said, 'two', priority=20, needs='db')
    lifespan(bus, said, 'one', priority=10, needs='db')
    lifespan(bus, said, 'three', priority=20, needs=('db', 'one'))
    lifespan(bus, said, 'db')
    lifespan(bus, said, 'other')
    assert run(bus, said) == ['db', 'one', 'three', 'two', 'other']


def test_every_order_of_making_gives_an_order_that_fits(said):
    needs = {'a': 'b', 'b': 'cd', 'c': 'd', 'd': '', 'e': 'a'}
    for names in itertools.permutations(needs):
        del said[:]
        bus = Bus()
        for name in names:
            lifespan(bus, said, name, needs=[*needs[name]])
        started = run(bus, said)
        for name, its in needs.items():
            for need in its:
                assert started.index(need) < started.index(name)


def test_after_something_that_is_not_there_is_ignored(said):
    bus = Bus()
    lifespan(bus, said, 'cache', after=['metrics', 'db'])
    lifespan(bus, said, 'db')
    assert run(bus, said) == ['db', 'cache']


def test_a_context_can_need_a_lifespan(said):
    bus = Bus()
    bus.enter(open(__file__), name='file', needs='db')  # noqa: SIM115
    lifespan(bus, said, 'db')
    bus.start()
    assert said == ['db']
    assert bus.resources['file'].closed is False
    bus.exit()


def test_a_need_that_is_not_there_ends_the_start_before_anything_has_started(said):
    bus = Bus()
    lifespan(bus, said, 'log')
    lifespan(bus, said, 'cache', needs='db')
    with pytest.raises(NeedError) as refused:
        bus.start()
    assert str(refused.value) == 'cache needs db: there is none of this name'
    assert (bus.state, said) == (State.STOPPED, [])


def test_a_circle_is_named(said):
    bus = Bus()
    for name, need in zip('abcde', 'bcdea', strict=True):
        lifespan(bus, said, name, needs=need)
    with pytest.raises(NeedError, match='this is a circle') as refused:
        bus.start()
    assert all(name in str(refused.value) for name in 'abcde')


def test_a_need_on_itself_is_named(said):
    bus = Bus()
    lifespan(bus, said, 'a', needs='a')
    with pytest.raises(NeedError, match='a needs a: nothing can need itself'):
        bus.start()


def test_a_need_cannot_cross_the_server(said):
    bus = Bus()
    lifespan(bus, said, 'cache', needs='announcement')
    lifespan(bus, said, 'announcement', priority=80)
    with pytest.raises(NeedError, match='announcement: it starts after the server'):
        bus.start()


def test_a_late_lifespan_finds_what_it_needs_running(said):
    bus = Bus()
    lifespan(bus, said, 'db')
    bus.start()
    lifespan(bus, said, 'cache', needs='db', priority=10)
    assert said == ['db', 'cache']
    bus.exit()
    assert said == ['db', 'cache', '-cache', '-db']


def test_a_late_lifespan_whose_need_is_not_there_is_refused(said):
    bus = Bus()
    bus.start()
    with pytest.raises(NeedError, match='there is none of this name'):
        lifespan(bus, said, 'cache', needs='db')
    assert 'cache' not in bus.lifespans
    lifespan(bus, said, 'cache')  # the name is free, and the need is forgotten
    bus.exit()
    bus.start()
    assert said == ['cache', '-cache', 'cache']
    bus.exit()


def test_what_needs_a_failed_part_is_not_started(said):
    bus = Bus()
    lifespan(bus, said, 'cache', needs='db', priority=10)

    @bus.lifespan
    def db():
        raise OSError('no database')
        yield

    with pytest.raises(Exception, match='no database'):
        bus.start()
    assert said == []


def test_the_order_of_200_parts_takes_milliseconds():
    chance = random.Random(1)
    names = [f'part{number}' for number in range(200)]
    wishes = {
        name: (tuple(chance.sample(names[:place], min(place, 3))), ())
        for place, name in enumerate(names)
    }
    shuffled = dict(chance.sample([*wishes.items()], 200))
    began = time.process_time()
    ordered = in_order(shuffled)
    assert time.process_time() - began < 0.1  # 1 ms where nothing else runs
    for name, (needs, _) in wishes.items():
        assert all(ordered.index(need) < ordered.index(name) for need in needs)
