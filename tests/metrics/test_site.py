"""The files of dead processes become one for each kind, and no number is lost by that."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from paste_wspbus.metrics import site
from paste_wspbus.metrics.site import SiteCollector, enter, fold


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path)


@pytest.fixture(scope='module')
def dead():
    """The number of a process that has ended."""
    child = subprocess.Popen(['true'])
    child.wait()
    return child.pid


def write(folder, kind, pid, value, name='items_total', timestamp=0.0, **labels):
    """Write a number as prometheus_client does in the process ``pid``."""
    file = MmapedDict(os.path.join(folder, f'{kind}_{pid}.db'))
    key = mmap_key(name, name, list(labels), list(labels.values()), 'Help')
    file.write_value(key, value, timestamp)
    file.close()


def shown(folder):
    """Return {sample: value} of what the collector shows."""
    registry = CollectorRegistry()
    registry.register(SiteCollector(folder))
    lines = generate_latest(registry).decode().splitlines()
    samples = (line.rpartition(' ') for line in lines if not line.startswith('#'))
    return {name: float(value) for name, _, value in samples}


def files(folder):
    return sorted(name for name in os.listdir(folder) if name != 'wspbus.lock')


def test_the_counters_of_the_dead_are_added(folder, dead):
    write(folder, 'counter', dead, 3, shop='a\n"b"')
    write(folder, 'counter', os.getpid(), 4, shop='a\n"b"')
    before = shown(folder)
    assert before == {'items_total{shop="a\\n\\"b\\""}': 7}
    assert files(folder) == [f'counter_{os.getpid()}.db', 'counter_dead.db']
    fold(folder)
    assert shown(folder) == before


@pytest.mark.parametrize(
    ('kind', 'expected'),
    [
        ('gauge_sum', 7),
        ('gauge_min', 3),
        ('gauge_max', 4),
        ('gauge_mostrecent', 3),
        ('summary', 7),
    ],
)
def test_each_kind_of_numbers_of_the_dead_is_put_together_in_its_own_way(
    folder, dead, kind, expected
):
    write(folder, kind, dead, 3, name='items', timestamp=2.0)
    fold(folder)
    write(folder, kind, dead, 4, name='items', timestamp=1.0)
    fold(folder)
    assert files(folder) == [f'{kind}_dead.db']
    assert shown(folder) == {'items': expected}


@pytest.mark.parametrize('kind', ['gauge_all', 'gauge_liveall', 'gauge_livesum'])
def test_what_a_gauge_says_of_a_process_ends_with_it(folder, dead, kind):
    write(folder, kind, dead, 3, name='items')
    fold(folder)
    assert files(folder) == []


def test_histograms_of_the_dead_are_added_bucket_by_bucket(folder, dead):
    for _ in range(2):
        for le, count in (('0.1', 1), ('+Inf', 2)):
            write(folder, 'histogram', dead, count, name='seconds_bucket', le=le)
        fold(folder)
    found = {
        json.loads(key)[2]['le']: value[0]
        for key, value in site._read(os.path.join(folder, 'histogram_dead.db'))
    }
    assert found == {'0.1': 2, '+Inf': 4}


def test_a_process_with_the_number_of_a_dead_one_does_not_go_on_with_its_files(folder):
    own = os.getpid()
    write(folder, 'counter', own, 3)
    write(folder, 'gauge_livesum', own, 3, name='items')
    enter(folder)
    assert files(folder) == [f'{own}.begun', 'counter_dead.db']


def test_a_number_that_another_program_has_now_is_that_of_a_dead_process(folder):
    other = os.getppid()
    write(folder, 'counter', other, 3)
    fold(folder)
    assert files(folder) == [f'counter_{other}.db']
    with open(os.path.join(folder, f'{other}.begun'), 'w') as file:
        file.write('1')
    fold(folder)
    assert files(folder) == ['counter_dead.db']


@pytest.mark.parametrize('step', ['replace', 'unlink'])
def test_after_an_interruption_each_number_counts_once(folder, dead, monkeypatch, step):
    """A process is killed before the sums have their name, or before the files are removed."""
    write(folder, 'counter', dead, 3)
    fold(folder)
    write(folder, 'counter', dead, 4)
    real, calls = getattr(os, step), []

    def interrupt(*args):
        calls.append(args)
        if len(calls) == 2 - (step == 'unlink'):
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(os, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        fold(folder)
    monkeypatch.undo()
    with site._locked(folder, 0) as is_locked:  # it is not killed, but stopped
        assert is_locked
        assert shown(folder) == {'items_total': 7}
        assert 'wspbus.journal' in files(folder)
    assert shown(folder) == {'items_total': 7}
    assert files(folder) == ['counter_dead.db']


def test_who_reads_while_files_are_added_reads_again(folder, dead, monkeypatch):
    write(folder, 'counter', dead, 3)
    fold(folder)
    write(folder, 'counter', dead, 4)
    merged, reads = site._merged, []

    def fold_meanwhile(files):
        reads.append(files)
        if len(reads) == 1:
            site._fold(folder)  # in another process, which has the lock
        return merged(files)

    monkeypatch.setattr(site, '_merged', fold_meanwhile)
    with site._locked(folder, 0):
        assert shown(folder) == {'items_total': 7}
    assert len(reads) > 1


def test_a_full_folder_loses_nothing(folder, dead, monkeypatch):
    write(folder, 'counter', dead, 3)

    def full(folder, name, data):
        with open(os.path.join(folder, name), 'wb') as file:
            file.write(data[:10])
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(site, '_write', full)
    with pytest.raises(OSError, match='No space'):
        enter(folder)
    assert files(folder) == [f'counter_{dead}.db']
    assert shown(folder) == {'items_total': 3}


def test_a_process_that_begins_in_a_full_folder_goes_without_its_own_metrics(
    folder, monkeypatch
):
    monkeypatch.setenv(site.VARIABLE, folder)
    monkeypatch.setattr(site, 'ROOM', 1 << 62)
    assert site.begin() == ''  # it is imported: it is too late for another choice
    assert os.environ[site.VARIABLE] == folder
    monkeypatch.delitem(sys.modules, 'prometheus_client')
    assert 'MB free' in site.begin()
    assert site.VARIABLE not in os.environ
    assert site.begin() == ''


def test_a_folder_that_was_removed_is_made_again(folder, monkeypatch):
    monkeypatch.setenv(site.VARIABLE, folder)
    monkeypatch.delitem(sys.modules, 'prometheus_client')
    shutil.rmtree(folder)
    assert site.begin() == ''
    assert os.stat(folder).st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_made_again_is_not_called_full(folder, monkeypatch):
    lost = os.path.join(folder, 'file', 'metrics')
    with open(os.path.dirname(lost), 'w'):
        pass
    monkeypatch.setenv(site.VARIABLE, lost)
    monkeypatch.delitem(sys.modules, 'prometheus_client')
    assert f'{lost} cannot be used: Not a directory.' in site.begin()
    assert site.VARIABLE not in os.environ


def test_files_that_are_broken_are_left_out(folder, dead):
    write(folder, 'counter', os.getpid(), 3)
    for name, data in (
        ('counter_1.db', b'\xff' * 100),
        ('gauge_1.db', b'\xff' * 8),
        (f'summary_{dead}.db', b''),
        (f'histogram_{dead}.db', b'\x40\0\0\0' * 20),
        ('counter_x.db', b'nonsense'),
    ):
        with open(os.path.join(folder, name), 'wb') as file:
            file.write(data)
    assert shown(folder) == {'items_total': 3}


@pytest.mark.parametrize('text', ['', '[1', '[[], [], []]', '[[1], [2]]', '7', 'null'])
def test_a_journal_of_nonsense_is_removed(folder, dead, text):
    write(folder, 'counter', dead, 3)
    with open(os.path.join(folder, 'wspbus.journal'), 'w') as file:
        file.write(text)
    enter(folder)
    assert shown(folder) == {'items_total': 3}
    assert files(folder) == [f'{os.getpid()}.begun', 'counter_dead.db']


def test_a_journal_removes_nothing_in_another_folder(tmp_path, dead):
    folder = tmp_path / 'folder'
    folder.mkdir()
    (tmp_path / 'precious').write_text('x')
    (folder / 'wspbus.journal').write_text('[["../precious"], ["../precious"]]')
    fold(str(folder))
    assert (tmp_path / 'precious').read_text() == 'x'


def test_without_a_folder_there_are_no_metrics(folder):
    assert shown(os.path.join(folder, 'none')) == {}


DEATHS = """
import os, sys
os.environ['PROMETHEUS_MULTIPROC_DIR'] = sys.argv[1]
from prometheus_client import Counter, Gauge, Histogram
from paste_wspbus.metrics.site import enter
counter = Counter('items', 'Help', ['shop'])
gauge = Gauge('size', 'Help', multiprocess_mode='livesum')
histogram = Histogram('seconds', 'Help')
for deaths in (5, 25):
    for _ in range(deaths):
        if not os.fork():
            enter(sys.argv[1])
            for shop in range(20):
                counter.labels(f'shop {shop}').inc()
            gauge.set(1)
            histogram.observe(0.3)
            os._exit(0)
        os.wait()
    names = [one for one in os.listdir(sys.argv[1]) if str(os.getpid()) not in one]
    print(len(names), sum(os.stat(f'{sys.argv[1]}/{one}').st_size for one in names))
"""


def test_after_many_deaths_the_folder_is_no_larger_than_after_a_few(folder):
    done = subprocess.run(
        [sys.executable, '-c', DEATHS, folder],
        capture_output=True,
        text=True,
        check=True,
    )
    few, many = done.stdout.splitlines()
    assert few == many
    found = shown(folder)
    assert found['items_total{shop="shop 7"}'] == 30
    assert found['seconds_count'] == 30
    assert 'size' not in found
