import gc
import os

import pytest

from paste_wspbus import forks

pytestmark = pytest.mark.filterwarnings('ignore:.*multi-threaded:DeprecationWarning')


class Held:
    def __init__(self, told):
        self.told = told

    def close(self):
        os.write(self.told, b'closed ')

    def fail(self):
        os.write(self.told, b'failed ')
        raise OSError('it is closed already')


def said_in_a_child(make):
    """What the things that ``make`` returns say when this process forks."""
    reader, writer = os.pipe()
    held = make(writer)
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with open(reader) as file:
        said = file.read().split()
    del held
    return said


def holding(close=Held.close):
    def make(told):
        held = Held(told)
        forks.close_in_child(held, close)
        return held

    return make


def test_a_child_closes_what_its_parent_holds():
    assert said_in_a_child(holding()) == ['closed']


def test_a_child_closes_once_what_was_registered_twice():
    def make(told):
        held = holding()(told)
        forks.close_in_child(held, Held.close)
        return held

    assert said_in_a_child(make) == ['closed']


def test_nobody_closes_what_is_gone():
    def make(told):
        holding()(told)
        gc.collect()

    assert said_in_a_child(make) == []


def test_one_that_fails_does_not_keep_the_others_open():
    def make(told):
        return [holding()(told), holding(Held.fail)(told), holding()(told)]

    assert sorted(said_in_a_child(make)) == ['closed', 'closed', 'failed']


def test_importing_it_watches_nothing_and_windows_has_no_fork(monkeypatch):
    monkeypatch.setattr(forks, '_watching', False)
    monkeypatch.delattr(os, 'register_at_fork')
    held = Held(-1)
    forks.close_in_child(held, Held.close)
    assert not forks._watching
