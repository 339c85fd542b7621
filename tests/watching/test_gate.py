"""The gate, which is shut as soon as the call of the kernel that changes a file returns."""

import os
import threading

import pytest

from paste_wspbus.watching import inotify
from paste_wspbus.watching.files import Files
from paste_wspbus.watching.gate import Gate
from paste_wspbus.watching.watcher import Watcher
from tests.watching.test_watcher import CHANGES

change = pytest.mark.parametrize('change', CHANGES.values(), ids=CHANGES)


@pytest.fixture
def site(tmp_path):
    path = tmp_path / 'site' / 'views.py'
    path.parent.mkdir()
    path.write_text('one')
    return path


@pytest.fixture
def files(site):
    files = Files(ignore=['*.log'])
    files.add_module(site)
    return files


@pytest.fixture
def told():
    return []


@pytest.fixture
def gate(files, told):
    gate = Gate(files, told.extend)
    gate.prepare()
    yield gate
    gate.close()


@change
def test_it_is_shut_when_the_change_returns(change, gate, site, told):
    assert not gate.is_shut()
    change(site)
    assert gate.is_shut()
    assert told == [str(site)]
    assert gate.is_shut()
    assert told == [str(site)]  # once


def test_a_new_module_shuts_it(gate, site, told):
    new = site.with_name('models.py')
    new.write_text('')
    assert gate.is_shut()
    assert told == [str(new)]


def test_a_new_file_of_a_glob_shuts_it(gate, files, site):
    folder = site.parent / 'templates'
    folder.mkdir()
    files.add(folder)
    files.search()
    gate.look()
    assert not gate.is_shut()
    (folder / 'page.pt').write_text('')
    assert gate.is_shut()


@pytest.mark.parametrize('name', ['site.db', '.views.py.swp', 'views.py~', 'site.log'])
def test_what_does_not_belong_to_the_site_leaves_it_open(name, gate, site, told):
    site.with_name(name).write_text('')
    assert not gate.is_shut()
    assert told == []


def test_what_is_moved_away_and_back_leaves_it_open(gate, site):
    site.rename(site.with_name('away'))
    site.with_name('away').rename(site)
    assert not gate.is_shut()


def test_a_file_that_is_read_later_is_followed(gate, files, tmp_path):
    late = tmp_path / 'late' / 'late.py'
    late.parent.mkdir()
    late.write_text('')
    files.add_module(late)
    gate.look()
    assert not gate.is_shut()
    late.write_text('X = 1')
    assert gate.is_shut()


def test_a_change_before_its_folder_is_followed_counts(gate, files, tmp_path):
    late = tmp_path / 'late' / 'late.py'
    late.parent.mkdir()
    late.write_text('')
    files.add_module(late)
    late.write_text('X = 1')
    gate.look()
    assert gate.is_shut()


def test_a_change_before_all_was_prepared_counts_if_all_files_are_checked(files, site):
    site.write_text('two')
    gate = Gate(files, list)
    gate.prepare()
    gate.look()
    assert not gate.is_shut()
    gate.look(at_all=True)
    assert gate.is_shut()
    gate.close()


def test_the_files_count_as_read_when_it_is_opened_again(gate, site, told):
    site.write_text('two')
    assert gate.is_shut()
    gate.reopen()
    assert not gate.is_shut()
    site.write_text('three')
    gate.reopen()
    assert not gate.is_shut()
    site.write_text('more')
    assert gate.is_shut()
    assert told == [str(site)] * 2


def test_a_folder_above_that_is_exchanged_shuts_it(gate, site, tmp_path):
    other = tmp_path / 'other'
    other.mkdir()
    (other / 'views.py').write_text('two')
    site.parent.rename(tmp_path / 'old')
    other.rename(site.parent)
    assert gate.is_shut()


def test_more_notices_than_the_kernel_keeps_lose_nothing(gate, site):
    with open('/proc/sys/fs/inotify/max_queued_events') as file:
        most = int(file.read())
    names = [site.with_name('a'), site.with_name('b')]
    names[0].write_text('')
    for number in range(most):
        os.rename(names[number % 2], names[1 - number % 2])
    assert not gate.is_shut()
    for number in range(most, 2 * most):
        os.rename(names[number % 2], names[1 - number % 2])
    site.write_text('two')
    assert gate.is_shut()


def test_without_inotify_it_is_always_open(files, site, monkeypatch):
    def none_left(*_):
        raise OSError(24, 'Too many open files')

    monkeypatch.setattr(inotify, 'Inotify', none_left)
    gate = Gate(files, list)
    gate.prepare()
    site.write_text('two')
    gate.look(at_all=True)
    assert not gate.is_shut()


def test_it_is_open_in_a_child_and_the_parents_keeps_its_notices(gate, site):
    pid = os.fork()
    if not pid:
        os._exit(gate.is_shut())
    site.write_text('two')
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert gate.is_shut()


def test_no_thread_finds_it_open_while_another_one_judges_the_change(gate, site, files):
    """The queue is empty then, but the change is not judged yet."""
    judging, judged = threading.Event(), threading.Event()
    usual = files.changed

    def changed(touched=None):
        judging.set()
        assert judged.wait(10)
        return usual(touched)

    files.changed = changed
    site.write_text('two')
    found = []
    first = threading.Thread(target=gate.look)
    first.start()
    assert judging.wait(10)
    second = threading.Thread(target=lambda: found.append(gate.is_shut()))
    second.start()
    second.join(0.1)
    assert found == []  # it waits
    judged.set()
    first.join(10)
    second.join(10)
    assert found == [True]


def test_a_watcher_that_is_told_reports_even_what_is_as_it_was(files, site):
    """Otherwise the server would never accept again."""
    from paste_wspbus.watching.loop import Events

    events, reported = Events(), []
    watcher = Watcher(events, files, reported.append, quiet=0.001)
    watcher.insist([str(site)])
    while not reported:
        events.step(10)
    assert reported == [[str(site)]]
    watcher.close()
    events.close()
