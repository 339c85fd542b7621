"""What changed: which files a site is made of, and that a change of one is told, once."""

import errno
import importlib
import json
import os
import py_compile
import queue
import resource
import shutil
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from paste_wspbus.bus.supervised import supervised
from paste_wspbus.errors import WSPBusError
from paste_wspbus.plugins.autoreload import Autoreloader
from paste_wspbus.watching import watcher as module
from paste_wspbus.watching.by_watchfiles import Watchfiles
from paste_wspbus.watching.files import Files, is_temporary, signature
from paste_wspbus.watching.imports import Recorder
from paste_wspbus.watching.inotify import Inotify
from paste_wspbus.watching.loop import Events
from paste_wspbus.watching.watcher import Watcher
from tests.kit import TIMEOUT, Process, eventually, write

NO_MODULES = '(?!)'
OLD = 1_000_000_000  # seconds since the epoch: long before any process began


def recorder_of(files, match='.*'):
    return Recorder(files, match, reload=lambda: None, stop=lambda: None)


class Watching(Autoreloader):
    """What `react` is called with can be waited for; nothing is restarted."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.changes = queue.Queue()

    def react(self, paths):
        self.changes.put(paths)

    def next(self):
        """The names of the files that changed next, sorted."""
        return sorted(
            os.path.basename(path) for path in self.changes.get(timeout=TIMEOUT)
        )

    def next_until(self, name):
        """All names, up to the change that names this one."""
        names = []
        while name not in names:
            names += self.next()
        return names


@pytest.fixture
def watching(bus, tmp_path, monkeypatch):
    """Make a `Watching` of some files, and start it."""
    # Others may write into the folders that these tests run from.
    monkeypatch.setattr(sys, 'path', [one for one in sys.path if 'lib' in one])
    made = []

    def make(*files, match=NO_MODULES, start=True, **kwargs):
        plugin = Watching(bus, match=match, files=files, **kwargs)
        made.append(plugin)
        plugin.subscribe()
        if start:
            bus.start()
        return plugin

    yield make
    for plugin in made:
        plugin.unsubscribe()


@pytest.fixture
def site(tmp_path):
    """A file whose change tells that all before it was seen."""
    folder = tmp_path / 'site'
    folder.mkdir()
    path = folder / 'site.py'
    path.write_text('one')
    os.utime(path, (OLD, OLD))
    return path


def renamed_over(path, text='two'):
    other = path.with_name('saved.tmp')
    other.write_text(text)
    os.replace(other, path)


def set_back(path):
    os.utime(path, (OLD - 1000, OLD - 1000))


def written_in_pieces(path):
    with path.open('w') as file:
        file.write('t')
        file.flush()
        threading.Event().wait(0.02)
        file.write('wo')


def replaced_through_a_link(path):
    other = path.with_name('other')
    other.write_text('two')
    path.unlink()
    path.symlink_to(other)


def linked_anew(path):
    other = path.with_name('other')
    other.write_text('two')
    path.unlink()
    os.link(other, path)


CHANGES = {
    'written': lambda path: path.write_text('two'),
    'written in pieces': written_in_pieces,
    'renamed over': renamed_over,
    'deleted': lambda path: path.unlink(),
    'moved away': lambda path: path.rename(path.parent.parent / 'away'),
    'set back': set_back,
    'a link': replaced_through_a_link,
    'a hard link': linked_anew,
}
change = pytest.mark.parametrize('change', CHANGES.values(), ids=CHANGES)

KINDS = {
    'inotify': {},
    'polling': {'poll': True, 'interval': 0.01},
}
each_kind = pytest.mark.parametrize('kind', KINDS.values(), ids=KINDS)


# -- A change -------------------------------------------------------------------


@change
@each_kind
def test_a_change_is_told_once(kind, change, watching, site, tmp_path):
    last = tmp_path / 'last'
    plugin = watching(site, last, quiet=0.2, **kind)
    change(site)
    assert plugin.next() == ['site.py']
    last.touch()
    assert plugin.next() == ['last']


def test_it_is_published_and_logged_and_the_bus_is_restarted_once(bus, log, site):
    calls = queue.Queue()
    supervised(bus).renew = lambda: calls.put('restart')
    plugin = Autoreloader(bus, match=NO_MODULES, files=[site])
    bus.subscribe('changed', lambda paths: calls.put(paths))
    plugin.subscribe()
    bus.start()
    try:
        site.write_text('two')
        assert calls.get(timeout=TIMEOUT) == [str(site)]
        assert calls.get(timeout=TIMEOUT) == 'restart'
        assert log.count(f'{site} has changed: restarting') == 1
        assert calls.empty()
    finally:
        plugin.unsubscribe()


def test_the_line_names_one_file_and_counts_the_others(bus, log, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    supervised(bus).renew = lambda: None
    plugin = Autoreloader(bus)
    plugin.react([str(tmp_path / 'site.py')])
    plugin.react([str(tmp_path / 'site.py'), 'x'])
    plugin.react([str(tmp_path / 'site.py'), 'x', 'y'])
    plugin.react(['/else\nwhere'])
    assert log == [
        'site.py has changed: restarting',
        'site.py and 1 other have changed: restarting',
        'site.py and 2 others have changed: restarting',
        "'/else\\nwhere' has changed: restarting",
    ]


def test_what_fails_at_a_change_is_logged_and_the_next_one_is_told(bus, log, site):
    tries = queue.Queue()

    class Failing(Autoreloader):
        def react(self, paths):
            tries.put(paths)
            raise [WSPBusError('no way'), RuntimeError('boom')][tries.qsize() - 1]

    plugin = Failing(bus, match=NO_MODULES, files=[site])
    bus.subscribe('changed', lambda paths: 1 / 0)
    plugin.subscribe()
    bus.start()
    try:
        site.write_text('two')
        eventually(lambda: 'no way' in log)
        site.write_text('three')
        eventually(lambda: any('RuntimeError: boom' in line for line in log))
        assert any('ZeroDivisionError' in line for line in log)
    finally:
        plugin.unsubscribe()


#: How the scripts below begin, indented as they are.
SITE = """import sys, threading
        from paste_wspbus.bus import Bus
        from paste_wspbus.bus.supervised import supervised
        from paste_wspbus.plugins.autoreload import Autoreloader
        bus = Bus()
        bus.subscribe('log', lambda msg, level: print(msg, file=sys.stderr, flush=True))
        plugin = Autoreloader(bus, match='site_of_this|__main__', files=sys.argv[1:])
        plugin.subscribe()"""


def test_a_site_runs_its_new_code(tmp_path):
    script = f"""
        {SITE}
        import site_of_this
        bus.start()
        print(site_of_this.text, flush=True)
        bus.block()
    """
    write(tmp_path, {'run.py': script, 'site_of_this.py': "text = 'one'"})
    with Process([sys.executable, 'run.py'], tmp_path) as process:
        assert process.out.wait_for('one'), process.report()
        write(tmp_path, {'site_of_this.py': "text = 'two!'"})
        assert process.out.wait_for('two!'), process.report()
        assert process.err.text.count('site_of_this.py has changed: restarting') == 1
        write(tmp_path, {'site_of_this.py': "text = 'three'"})
        assert process.out.wait_for('three'), process.report()
        assert process.err.text.count('restarting') == 2


def test_an_edit_while_the_site_starts_is_seen(tmp_path):
    script = f"""
        {SITE}
        import site_of_this
        bus.start()
        bus.block()
    """
    slow = "print('read', flush=True)\ninput()"
    write(tmp_path, {'run.py': script, 'site_of_this.py': slow})
    with Process([sys.executable, 'run.py'], tmp_path) as process:
        assert process.out.wait_for('read'), process.report()
        write(tmp_path, {'site_of_this.py': "print('new', flush=True)"})
        process.process.stdin.write('\n')
        process.process.stdin.flush()
        assert process.out.wait_for('new'), process.report()


def test_a_module_that_fails_to_be_imported_is_watched(watching, site, monkeypatch):
    monkeypatch.syspath_prepend(site.parent)
    write(site.parent, {'broken_one.py': 'import broken_two', 'broken_two.py': '1 +'})
    plugin = watching(match='broken_', start=False)
    with pytest.raises(SyntaxError):
        importlib.import_module('broken_one')
    plugin.start()
    (site.parent / 'broken_two.py').write_text('1 + 1')
    assert plugin.next() == ['broken_two.py']


# -- No change ------------------------------------------------------------------

TEMPORARY = [
    '4913',
    '.site.py.swp',
    'site.py~',
    '#site.py#',
    '.#site.py',
    'site.tmp',
    'site.py___jb_tmp___',
    '__pycache__',
    '.git',
]


@each_kind
@pytest.mark.parametrize('folder', ['a module beside it', 'added'])
def test_temporary_files_are_no_change(folder, kind, watching, site, monkeypatch):
    if folder == 'added':
        plugin = watching(site.parent, quiet=0.1, **kind)
    else:
        monkeypatch.syspath_prepend(site.parent)
        plugin = watching(site, quiet=0.1, **kind)
    for name in TEMPORARY[:-2]:
        (site.parent / name).write_text('x')
    for name in TEMPORARY[-2:]:
        (site.parent / name).mkdir()
        (site.parent / name / 'site.py').write_text('x')
    site.write_text('two')
    assert plugin.next() == ['site.py']


@pytest.mark.parametrize('name', TEMPORARY)
def test_the_names_of_temporary_files_are_known(name):
    assert is_temporary(name)
    assert not is_temporary('x.html')


def test_a_temporary_file_that_is_watched_counts(watching, site):
    temporary = site.parent / 'site.py~'
    plugin = watching(temporary)
    temporary.write_text('x')
    assert plugin.next() == ['site.py~']


@each_kind
def test_what_leaves_a_file_as_it_was_is_no_change(kind, watching, site, tmp_path):
    last = tmp_path / 'last'
    plugin = watching(site, last, quiet=0.2, **kind)
    site.chmod(0o600)
    os.utime(site, (OLD, OLD))
    site.open('a').close()
    site.rename(site.with_name('away'))
    site.with_name('away').rename(site)
    last.touch()
    assert plugin.next() == ['last']


def test_a_file_that_is_moved_away_and_back_is_no_change(watching, site, tmp_path):
    last, away = tmp_path / 'last', site.with_name('away')
    plugin = watching(site, last, quiet=1)
    plugin.watcher.longest = TIMEOUT
    site.rename(away)
    eventually(lambda: plugin.files.signatures[str(site)] is None)
    away.rename(site)
    last.touch()
    assert plugin.next() == ['last']


# -- Bursts ---------------------------------------------------------------------


@each_kind
def test_a_burst_of_500_files_is_one_change(kind, watching, site):
    plugin = watching(site.parent, quiet=0.5, **kind)
    plugin.watcher.longest = TIMEOUT
    for number in range(500):
        (site.parent / f'{number}.html').write_text('x')
    assert len(plugin.next()) == 500


@each_kind
def test_two_saves_20_ms_apart_are_one_change(kind, watching, site, tmp_path):
    last = tmp_path / 'last'
    plugin = watching(site, last, quiet=0.5, **kind)
    site.write_text('two')
    threading.Event().wait(0.02)
    site.write_text('three')
    assert plugin.next() == ['site.py']
    last.touch()
    assert plugin.next() == ['last']


def test_a_burst_that_does_not_end_is_told_of(watching, site):
    plugin = watching(site, quiet=TIMEOUT)
    told = threading.Event()
    plugin.react = lambda paths: told.set()
    number = 0
    while not told.wait(0.02):
        number += 1
        site.write_text('x' * number)
    assert number


# -- Which files ----------------------------------------------------------------


@each_kind
def test_a_new_module_beside_one_that_is_imported_counts(
    kind, watching, site, monkeypatch
):
    monkeypatch.syspath_prepend(site.parent)
    plugin = watching(**kind)
    (site.parent / 'notes.txt').write_text('x')
    (site.parent / 'not-a-module.py').write_text('x')
    (site.parent / 'fresh.py').write_text('x')
    assert plugin.next() == ['fresh.py']
    (site.parent / 'package').mkdir()
    (site.parent / 'package' / '__init__.py').write_text('')
    assert plugin.next() == ['__init__.py']


def test_the_folders_in_which_packages_are_installed_are_not_searched(
    watching, tmp_path
):
    files = Files()
    recorder_of(files).scan()
    assert str(Path(pytest.__file__)) in files.signatures
    assert not any('site-packages' in folder for folder in files._modules)


def import_in(folder, name, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    importlib.import_module(name)
    for one in [name for name in sys.modules if name.startswith('watched_')]:
        del sys.modules[one]


@pytest.mark.parametrize('when', ['before', 'after'])
def test_a_module_is_watched_however_late_it_is_imported(
    when, watching, site, tmp_path, monkeypatch
):
    write(tmp_path, {'late/watched_late/__init__.py': '', 'late/watched_late/x.py': ''})
    plugin = watching(site, match='watched_', start=when == 'after')
    if when == 'after':
        site.write_text('two')
        assert plugin.next() == ['site.py']  # all folders are followed
    import_in(tmp_path / 'late', 'watched_late.x', monkeypatch)
    plugin.start()
    path = tmp_path / 'late' / 'watched_late' / 'x.py'
    path.write_text('changed = 1')
    assert plugin.next() == ['x.py']


def test_modules_in_archives_namespaces_and_bytecode_are_watched(
    watching, tmp_path, monkeypatch
):
    with zipfile.ZipFile(tmp_path / 'watched.zip', 'w') as archive:
        archive.writestr('watched_zip/__init__.py', '')
    write(tmp_path, {'ns/watched_ns/portion.py': '', 'bare/watched_bare.py': ''})
    source = tmp_path / 'bare' / 'watched_bare.py'
    py_compile.compile(str(source), cfile=f'{source}c')
    source.unlink()
    plugin = watching(match='watched_')
    import_in(tmp_path / 'watched.zip', 'watched_zip', monkeypatch)
    import_in(tmp_path / 'bare', 'watched_bare', monkeypatch)
    import_in(tmp_path / 'ns', 'watched_ns.portion', monkeypatch)
    for name in ['watched.zip', 'bare/watched_bare.pyc', 'ns/watched_ns/portion.py']:
        path = tmp_path / name
        path.write_bytes(b'x')
        assert plugin.next() == [path.name]
    (tmp_path / 'ns' / 'watched_ns' / 'fresh.py').touch()
    assert plugin.next() == ['fresh.py']


def test_an_extension_module_is_watched(tmp_path):
    path = tmp_path / f'watched{importlib.machinery.EXTENSION_SUFFIXES[0]}'
    path.write_bytes(b'one')
    files = Files()
    files.add_module(str(path))
    path.write_bytes(b'two!')
    assert list(files.changed()) == [str(path)]


def test_a_lazy_module_is_not_woken_by_a_look_at_it(monkeypatch):
    class Lazy(type(sys)):
        def __getattr__(self, name):
            raise AssertionError(name)

    monkeypatch.setitem(sys.modules, 'watched_lazy', Lazy('watched_lazy'))
    monkeypatch.setitem(sys.modules, 'watched_none', None)
    monkeypatch.setitem(sys.modules, 'watched_object', object())
    files = Files()
    recorder_of(files, 'watched_').scan()
    assert not any('lazy' in path for path in files.signatures)


def test_a_file_that_was_read_before_can_be_given_as_it_was(bus, site):
    was = signature(site)
    site.write_text('two')
    assert list(Autoreloader(bus, files={site: was}).files.changed()) == [str(site)]
    assert not Autoreloader(bus, files=[site]).files.changed()


def test_watch_adds_files_folders_and_globs(bus, watching, site, tmp_path):
    write(tmp_path, {'t/a/x.html': '', 't/b.txt': '', 'c/x.ini': '', 'c/d/x.ini': ''})
    plugin = watching()
    bus.publish('watch', site)
    bus.publish('watch', str(tmp_path / 't' / '**' / '*.html'))
    bus.publish('watch', tmp_path / 'c' / '*.ini')
    site.write_text('two')
    assert plugin.next() == ['site.py']
    for name, counts in {
        't/b.txt': False,
        't/a/x.html': True,
        't/new.html': True,
        't/a/new.txt': False,
        't/a/new.html': True,
        'c/d/x.ini': False,
        'c/x.ini': True,
    }.items():
        (tmp_path / name).write_text('changed')
        if counts:
            assert plugin.next() == [Path(name).name]
    bus.publish('watch', tmp_path / 'coming')
    (tmp_path / 'coming').touch()
    assert plugin.next() == ['coming']


def test_ignored_files_do_not_count(watching, site):
    plugin = watching(site.parent, ignore=['*.log', '*/made/*'], quiet=0.2)
    write(site.parent, {'x.log': 'x', 'made/x': 'x', 'site.py': 'two'})
    assert plugin.next() == ['site.py']


# -- Folders --------------------------------------------------------------------


@each_kind
def test_a_folder_that_vanishes_and_comes_again_is_watched(kind, watching, site):
    away = site.parent.with_name('away')
    plugin = watching(site, **kind)
    shutil.rmtree(site.parent)
    assert plugin.next() == ['site.py']
    site.parent.mkdir()
    site.write_text('two')
    assert plugin.next() == ['site.py']
    renamed_over(site, 'three')
    assert plugin.next() == ['site.py']
    site.parent.rename(away)
    assert plugin.next() == ['site.py']
    (away / 'site.py').write_text('four!')
    away.rename(site.parent)
    assert plugin.next() == ['site.py']


@each_kind
def test_a_move_of_a_folder_far_above_is_seen(kind, watching, tmp_path):
    write(tmp_path, {'a/b/c/d.py': 'one'})
    plugin = watching(tmp_path / 'a' / 'b' / 'c' / 'd.py', **kind)
    (tmp_path / 'a').rename(tmp_path / 'away')
    assert plugin.next() == ['d.py']
    write(tmp_path, {'a/b/c/d.py': 'two'})
    assert plugin.next() == ['d.py']


def test_a_move_while_the_folders_above_are_followed_is_seen(
    watching, tmp_path, monkeypatch
):
    write(tmp_path, {'a/b/c/d.py': 'one'})
    added, add = [], Inotify._add

    def add_and_move(self, path, mask):
        number = add(self, path, mask)
        added.append(path)
        if path == str(tmp_path / 'a' / 'b' / 'c') and added.count(path) == 1:
            (tmp_path / 'a').rename(tmp_path / 'away')
            write(tmp_path, {'a/b/x': ''})
        return number

    monkeypatch.setattr(Inotify, '_add', add_and_move)
    plugin = watching(tmp_path / 'a' / 'b' / 'c' / 'd.py')
    assert plugin.next() == ['d.py']
    write(tmp_path, {'a/b/c/d.py': 'two'})
    assert plugin.next() == ['d.py']


@each_kind
def test_links_are_followed_wherever_they_lead(kind, watching, site, tmp_path):
    write(
        tmp_path, {'r1/p/m.py': '1', 'r2/p/m.py': '22', 'real/one.py': '1', 'l/x': ''}
    )
    (tmp_path / 'current').symlink_to('r1')
    (tmp_path / 'l' / 'linked.py').symlink_to('../real/one.py')
    package, file = tmp_path / 'current/p/m.py', tmp_path / 'l/linked.py'
    plugin = watching(package, file, **kind)
    (tmp_path / 'r1/p/m.py').write_text('changed')
    assert plugin.next() == ['m.py']
    renamed_over(tmp_path / 'real/one.py')
    assert plugin.next() == ['linked.py']
    (tmp_path / 'next').symlink_to('r2')
    (tmp_path / 'next').rename(tmp_path / 'current')
    assert plugin.next() == ['m.py']
    (tmp_path / 'r2/p/m.py').write_text('changed again')
    assert plugin.next() == ['m.py']


@pytest.mark.parametrize('link', [os.link, os.symlink])
def test_a_link_that_comes_is_seen(link, watching, site):
    coming = site.with_name('coming')
    plugin = watching(site, coming)
    site.write_text('two')
    assert plugin.next() == ['site.py']
    link(site, coming)
    assert plugin.next_until('coming') == ['coming']


def test_a_link_to_a_folder_that_it_is_in_ends(watching, site):
    (site.parent / 'again').symlink_to(site.parent)
    plugin = watching(site.parent)
    site.write_text('two')
    assert plugin.next() == ['site.py']


def test_a_folder_that_is_not_readable_is_named_and_the_rest_is_watched(tmp_path):
    script = f"""
        import ctypes, os
        # capset(2): of root's capabilities, none is left
        libc = ctypes.CDLL(None)
        libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
        os.chmod('closed', 0)
        {SITE}
        supervised(bus).renew = lambda: None
        bus.start()
        input()
    """
    write(tmp_path, {'run.py': script, 'closed/x.py': '', 'open/x.py': ''})
    args = [sys.executable, 'run.py', 'closed', 'closed/x.py', 'open/x.py']
    try:
        with Process(args, tmp_path) as process:
            process.expect('Cannot watch closed: Permission denied')
            (tmp_path / 'open' / 'x.py').write_text('changed')
            process.expect(os.path.join('open', 'x.py') + ' has changed: restarting')
            assert process.err.text.count('Cannot watch') == 1
    finally:
        (tmp_path / 'closed').chmod(0o755)


@pytest.fixture(scope='module')
def crowd(tmp_path_factory):
    """A folder with a module, 20,000 files and a folder for each hundred of them."""
    folder = tmp_path_factory.mktemp('crowd')
    (folder / 'crowded.py').write_text('')
    for number in range(20_000):
        if number % 100 == 0:
            (folder / f'd{number}').mkdir()
        os.close(os.open(folder / f'd{number // 100 * 100}' / f'f{number}', os.O_CREAT))
    yield folder
    shutil.rmtree(folder)


def test_nobody_looks_below_the_folder_of_a_module(watching, crowd, monkeypatch):
    monkeypatch.syspath_prepend(crowd)
    plugin = watching()
    assert not [folder for folder in plugin.files.folders if f'{crowd}/' in folder]
    assert not [path for path in plugin.files.signatures if str(crowd) in path]


def test_a_folder_with_many_files_is_watched(watching, crowd):
    plugin = watching(crowd)
    path = crowd / 'd19900' / 'f19999'
    path.write_text('x')
    assert plugin.next() == ['f19999']


@each_kind
def test_files_come_and_go(kind, watching, site):
    plugin = watching(site.parent, **kind)
    for number in range(5):
        path = site.parent / f'{number}.html'
        path.touch()
        assert plugin.next() == [path.name]
        path.unlink()
        assert plugin.next() == [path.name]
    site.unlink()
    assert plugin.next() == ['site.py']
    site.write_text('again')
    assert plugin.next() == ['site.py']


def test_a_cache_that_grows_beside_a_module_is_not_followed(
    watching, site, monkeypatch
):
    monkeypatch.syspath_prepend(site.parent)
    plugin = watching(site)
    for number in range(10):
        (site.parent / f'cache{number}' / 'a' / 'b').mkdir(parents=True)
    site.write_text('two')
    assert plugin.next_until('site.py') == ['site.py']
    below = [one for one in plugin.files.folders if '/site/cache' in one]
    assert all(one.count('/cache') == 1 and not one.endswith('a') for one in below)


# -- Threads, forks, limits -----------------------------------------------------


def switches(thread):
    """How often a thread went to sleep."""
    status = Path(f'/proc/self/task/{thread.native_id}/status').read_text()
    return int(status.partition('nonvoluntary')[0].rpartition(':')[2])


def test_an_idle_watch_makes_no_wake_ups(watching, site):
    plugin = watching(site)
    site.write_text('two')
    assert plugin.next() == ['site.py']
    thread, before = plugin.thread, -1
    while before != switches(thread):  # it has gone to sleep
        before = switches(thread)
        threading.Event().wait(0.3)
    threading.Event().wait(1)
    assert switches(thread) == before
    assert isinstance(plugin.watcher.notices, Inotify)


@each_kind
def test_it_stops_at_once_and_starts_again(kind, bus, watching, site):
    plugin = watching(site, **{**kind, 'interval': 3600})
    fds, times = len(os.listdir('/proc/self/fd')), []
    for number in range(10):
        began = time.perf_counter()
        plugin.stop()
        times.append(time.perf_counter() - began)
        assert plugin.thread is None
        site.write_text('x' * number)
        plugin.start()
        assert plugin.next() == ['site.py']
    assert min(times) < 0.05
    assert len(os.listdir('/proc/self/fd')) == fds
    assert [t.name for t in threading.enumerate()].count('Autoreloader') == 1
    bus.stop()
    assert 'Autoreloader' not in [t.name for t in threading.enumerate()]
    site.write_text('two')
    bus.start()
    assert plugin.next() == ['site.py']


def test_a_folder_that_is_added_late_is_watched(watching, site, tmp_path):
    write(tmp_path, {'late/x': 'one'})
    plugin = watching(site)
    plugin.watch(tmp_path / 'late')
    path = tmp_path / 'late' / 'x'
    eventually(lambda: str(path) in plugin.files.signatures)
    path.write_text('two')
    assert plugin.next() == ['x']


def test_a_new_file_counts_when_who_writes_it_has_closed_it(watching, site, tmp_path):
    last = tmp_path / 'last'
    plugin = watching(site.parent, last)
    site.write_text('two')
    assert plugin.next() == ['site.py']  # the first look at all is over
    with (site.parent / 'new').open('w') as file:
        file.write('half')
        file.flush()
        last.touch()
        assert plugin.next() == ['last']
    assert plugin.next() == ['new']


def test_a_module_that_no_finder_found_is_watched(watching, tmp_path, monkeypatch):
    path = tmp_path / 'watched_by_hand.py'
    path.touch()
    plugin = watching(match='watched_', start=False)
    by_hand = type(sys)('watched_by_hand')
    by_hand.__file__ = str(path)
    monkeypatch.setitem(sys.modules, 'watched_by_hand', by_hand)
    plugin.start()
    path.write_text('changed')
    assert plugin.next() == ['watched_by_hand.py']


def test_it_may_be_stopped_by_what_it_called(bus, watching, site):
    plugin = watching(site)
    plugin.react = lambda paths: (bus.stop(), plugin.changes.put(paths))
    thread = plugin.thread
    site.write_text('two')
    assert plugin.next() == ['site.py']
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def test_it_watches_no_more_when_it_is_unplugged(watching, site):
    before = list(sys.meta_path)
    plugin = watching(site)
    assert len(sys.meta_path) == len(before) + 1
    plugin.unsubscribe()
    assert sys.meta_path == before
    assert plugin.thread is None


def test_two_of_them_share_one_process(watching, site, tmp_path, monkeypatch):
    write(tmp_path, {'two/watched_two.py': ''})
    first, second = (watching(match='watched_', start=False) for _ in range(2))
    import_in(tmp_path / 'two', 'watched_two', monkeypatch)
    for plugin in (first, second):
        plugin.start()
    (tmp_path / 'two' / 'watched_two.py').write_text('changed = 1')
    assert first.next() == second.next() == ['watched_two.py']


def test_a_forked_child_does_not_watch(tmp_path):
    script = f"""
        import os
        {SITE}
        supervised(bus).renew = lambda: print('restart', os.getpid() == parent, flush=True)
        parent = os.getpid()
        bus.start()
        child = os.fork()
        if not child:
            fds = len(os.listdir('/proc/self/fd'))  # of a single thread
            import site_of_this
            alone = len(os.listdir('/proc/self/task')) == 1
            bus.publish('watch', 'x')
            plugin.stop()
            print('child', alone, fds - len(os.listdir('/proc/self/fd')), flush=True)
            plugin.start()
            print('again', len(os.listdir('/proc/self/task')), flush=True)
            plugin.stop()
            os._exit(0)
        os.waitpid(child, 0)
        print('forked', plugin.thread.is_alive(), flush=True)
        input()
    """
    files = {'run.py': script, 'site.ini': 'one', 'site_of_this.py': ''}
    write(tmp_path, files)
    args = [sys.executable, '-W', 'ignore', 'run.py', 'site.ini']
    with Process(args, tmp_path) as process:
        assert process.out.wait_for('forked'), process.report()
        assert process.out.text.splitlines() == [
            'child True 4',
            'again 2',
            'forked True',
        ]
        (tmp_path / 'site.ini').write_text('two')
        assert process.out.wait_for('restart True'), process.report()


def test_it_polls_where_there_is_no_inotify_left_and_says_so_once(tmp_path):
    script = f"""
        import os
        {SITE}
        plugin.interval = 0.05
        supervised(bus).renew = lambda: None
        bus.start()  # what it imports is there
        bus.stop()
        taken = []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            pass
        for fd in taken[:3]:  # for its loop
            os.close(fd)
        bus.start()
        for fd in taken[3:]:
            os.close(fd)
        print('ready', flush=True)
        input()
    """
    write(tmp_path, {'run.py': script, 'site.ini': 'one'})
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))  # noqa: E731
    args = [sys.executable, 'run.py', 'site.ini']
    with Process(args, tmp_path, preexec_fn=limit) as process:
        assert process.out.wait_for('ready'), process.report()
        (tmp_path / 'site.ini').write_text('two')
        process.expect('site.ini has changed: restarting')
        assert (
            'Looking for changes every 0.05 s: Too many open files '
            '(see fs.inotify.max_user_instances)'
        ) in process.err.text
        assert process.err.text.count('Looking for changes') == 1


def test_it_polls_when_the_watches_are_used_up(watching, log, site, tmp_path):
    plugin = watching(site, interval=0.01)
    site.write_text('two')
    assert plugin.next() == ['site.py']
    fds = len(os.listdir('/proc/self/fd'))

    def add(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    plugin.watcher.notices._add = add
    for name in ['a', 'b']:
        (tmp_path / name).mkdir()
        plugin.watch(tmp_path / name / 'x')
        (tmp_path / name / 'x').touch()
        assert plugin.next() == ['x']
    assert plugin.watcher.notices.step == 0.01
    assert len(os.listdir('/proc/self/fd')) == fds - 1
    assert [line for line in log if 'Looking' in line] == [
        'Looking for changes every 0.01 s: No space left on device '
        '(see fs.inotify.max_user_watches)'
    ]
    plugin.stop()
    assert plugin.thread is None


def test_more_events_than_the_kernel_keeps_lose_nothing(watching, site, tmp_path):
    link, other = tmp_path / 'current', tmp_path / 'other'
    other.mkdir()
    (other / 'site.py').write_text('three')
    link.symlink_to('site')
    plugin = watching(link / 'site.py', quiet=0.3)
    going, more = threading.Event(), threading.Event()
    plugin.react = lambda paths: (going.set(), more.wait(TIMEOUT))
    site.write_text('two')
    assert going.wait(TIMEOUT)
    del plugin.react
    most = int(Path('/proc/sys/fs/inotify/max_queued_events').read_text())
    names = [site.parent / 'x', site.parent / 'y']
    names[0].touch()
    for number in range(most + 10):
        os.rename(names[number % 2], names[1 - number % 2])
    (tmp_path / 'new').symlink_to('other')
    os.rename(tmp_path / 'new', link)
    more.set()
    assert plugin.next() == ['site.py']
    (other / 'site.py').write_text('four')  # the folder to which the link leads now
    assert plugin.next() == ['site.py']


def test_other_systems_are_asked_through_watchfiles(watching, site, monkeypatch):
    monkeypatch.setattr(module.sys, 'platform', 'elsewhere')
    plugin = watching(site)
    assert isinstance(plugin.watcher.notices, Watchfiles)
    for change in [renamed_over, set_back, Path.unlink]:
        change(site)
        assert plugin.next() == ['site.py']
    shutil.rmtree(site.parent)
    site.parent.mkdir()
    site.write_text('two')
    assert plugin.next() == ['site.py']
    plugin.stop()
    plugin.start()
    site.write_text('three')
    assert plugin.next() == ['site.py']


# -- What a site tells other reloaders ------------------------------------------


@pytest.mark.parametrize('when', ['before', 'after'])
def test_what_paste_reloader_is_told_is_watched(
    when, watching, site, tmp_path, monkeypatch
):
    listed = tmp_path / 'listed'
    script = """
        import paste.reloader
        paste.reloader.watch_file({site!r})
        paste.reloader.add_file_callback(lambda: [{listed!r}])
    """
    told = script.format(site=str(site), listed=str(listed))
    write(tmp_path, {'p/watched_paste.py': told})
    for name in [name for name in sys.modules if name.startswith('paste.reloader')]:
        monkeypatch.delitem(sys.modules, name)
    plugin = watching(match='watched_', start=when == 'after')
    import_in(tmp_path / 'p', 'watched_paste', monkeypatch)
    plugin.start()
    site.write_text('two')
    assert plugin.next() == ['site.py']
    eventually(lambda: str(listed) in plugin.files.signatures)
    listed.touch()
    assert plugin.next() == ['listed']
    plugin.unsubscribe()
    assert plugin.recorder not in sys.modules['paste.reloader'].Monitor.instances
    sys.modules['paste.reloader'].Monitor.global_extra_files.clear()
    sys.modules['paste.reloader'].Monitor.global_file_callbacks.clear()


def test_a_paste_callback_that_fails_is_logged(watching, site, caplog):
    plugin = watching(site)
    plugin.recorder.add_file_callback(lambda: 1 / 0)
    site.write_text('two')
    assert plugin.next() == ['site.py']
    assert 'ZeroDivisionError' in caplog.text


def test_what_hupper_is_told_is_watched(tmp_path):
    script = f"""
        {SITE}
        supervised(bus).renew = lambda: print('restart', flush=True)
        import hupper
        print('active', hupper.is_active(), flush=True)
        hupper.get_reloader().watch_files(['templates/**/*.pt', 'data'])
        bus.start()
        print('started', flush=True)
        input()
        hupper.get_reloader().trigger_reload()
        plugin.unsubscribe()
        print('active', hupper.is_active(), flush=True)
    """
    write(tmp_path, {'run.py': script, 'templates/a/b.pt': 'x'})
    with Process([sys.executable, 'run.py'], tmp_path) as process:
        assert process.out.wait_for('started'), process.report()
        (tmp_path / 'templates' / 'a' / 'b.pt').write_text('changed')
        process.expect('b.pt has changed')
        (tmp_path / 'data').write_text('x')
        process.expect('data has changed')
        process.process.stdin.write('\n')
        process.release()
        assert process.wait() == 0, process.report()
        lines = process.out.text.split('\n')
        assert lines[0] == 'active True' and lines[-2] == 'active False'
        assert lines.count('restart') == 3


def test_neither_is_imported_by_it(tmp_path):
    script = f"""
        {SITE}
        bus.start()
        bus.exit()
        print([m for m in ('hupper', 'paste.reloader', 'watchfiles') if m in sys.modules])
    """
    write(tmp_path, {'run.py': script})
    with Process([sys.executable, 'run.py'], tmp_path) as process:
        assert process.wait() == 0, process.report()
        assert process.out.text == '[]\n'


# -- In the loop of another process -----------------------------------------------


@pytest.fixture
def watcher():
    """Make a `Watcher` in a loop of its own; its ``next`` is what changed next."""
    made = []

    def make(files, **kwargs):
        events, came = Events(), []
        watcher = Watcher(events, files, came.append, **kwargs)
        made.append(watcher)

        def next_change():
            until = time.monotonic() + TIMEOUT
            while not came:
                assert time.monotonic() < until, 'Nothing changes'
                events.step(TIMEOUT)
            return sorted(os.path.basename(path) for path in came.pop(0))

        watcher.next = next_change
        return watcher

    yield make
    for one in made:
        one.close()
        one.events.close()


def files_of(*paths, **kwargs):
    files = Files(**kwargs)
    for path in paths:
        files.add(path)
    return files


def sent(files):
    """News as another process gets them."""
    return json.loads(json.dumps(files.news()))


def test_a_change_that_was_not_read_in_time_belongs_to_the_burst(
    watcher, site, tmp_path
):
    other = tmp_path / 'other.py'
    other.write_text('one')
    watching = watcher(files_of(site, other), quiet=0.02)
    watching.events.step(TIMEOUT)  # the first look at all files
    site.write_text('two')
    while not watching.noticed:
        watching.events.step(TIMEOUT)
    other.write_text('two')
    # The time of the burst is over: the system has kept this process from running.
    watching._until = 0.0
    watching._settle()
    assert watching.next() == ['other.py', 'site.py']


@each_kind
def test_a_watcher_needs_no_thread(kind, watcher, site):
    threads = threading.active_count()
    watching = watcher(files_of(site), **kind)
    for text in ['two', 'three!']:
        site.write_text(text)
        assert watching.next() == ['site.py']
        assert threading.active_count() == threads


def test_a_watcher_is_told_what_another_process_reads(watcher, tmp_path):
    names = ['a.py', 'site.ini', 't/x.html', 't/x.txt', 'coming']
    write(tmp_path, dict.fromkeys(names[:-1], 'one'))
    told, watching = Files(), watcher(Files())
    told.add_module(str(tmp_path / 'a.py'))
    for name in ['site.ini', 't/*.html', 't/*.txt', 'coming']:
        told.add(tmp_path / name)
    watching.add(sent(told))
    assert told.news() == []
    for name in [*names, 't/new.html', 't/new.txt', 'fresh.py']:
        (tmp_path / name).write_text('two')
        assert watching.next() == [os.path.basename(name)]
    told.add(tmp_path / 'late')
    watching.add(sent(told))
    (tmp_path / 'late').touch()
    assert watching.next() == ['late']


def test_what_changed_since_it_was_read_is_told_when_the_news_come(watcher, tmp_path):
    names = ['a.py', 'site.ini']
    write(tmp_path, dict.fromkeys(names, 'one'))
    told = files_of(tmp_path / 'site.ini', tmp_path / 'coming')
    told.add_module(str(tmp_path / 'a.py'))
    for name in [*names, 'fresh.py', 'coming']:
        write(tmp_path, {name: 'changed'})
    watching = watcher(Files())
    watching.add(sent(told))
    assert watching.next() == [
        'a.py',
        'coming',
        'fresh.py',
        'site.ini',
    ]


def test_the_news_of_the_next_process_are_no_change(watcher, site, tmp_path):
    last = tmp_path / 'last'
    watching = watcher(files_of(last))
    for text in ['two', 'three!', 'four']:
        watching.add(sent(files_of(site, site.parent)))
        site.write_text(text)
        assert watching.next() == ['site.py']
    watching.add(sent(files_of(site, site.parent)))
    last.touch()
    assert watching.next() == ['last']


def test_news_are_announced_once_until_they_are_asked_for(site, tmp_path):
    files, announced = Files(), []
    files.on_news = lambda: announced.append(1)
    for name in ['a', 'b']:
        files.add(tmp_path / name)
    assert len(announced) == 1
    assert [path for _, path, _ in files.news()] == [
        str(tmp_path / 'a'),
        str(tmp_path / 'b'),
    ]
    files.add(tmp_path / 'a')
    assert len(announced) == 1  # it is known
    files.add(site)
    assert len(announced) == 2


#: A site's process: what it imported until it failed is on its standard output.
FAILING = """
    import json, sys
    from paste_wspbus.watching.imports import Recorder
    from paste_wspbus.watching.files import Files
    files = Files()
    Recorder(files, 'watched_', reload=None, stop=None).install()
    try:
        import watched_site
    except Exception as error:
        print(type(error).__name__)
    print(json.dumps(files.news()), flush=True)
"""


@pytest.mark.parametrize(
    'broken, failure, mended',
    [
        ('1 +', 'SyntaxError', 'watched_views.py'),
        ('import watched_missing', 'ModuleNotFoundError', 'watched_missing.py'),
        ('1 / 0', 'ZeroDivisionError', 'watched_views.py'),
        (None, 'ModuleNotFoundError', 'watched_views.py'),
    ],
)
def test_a_site_that_fails_heals_when_what_broke_it_is_mended(
    broken, failure, mended, watcher, tmp_path
):
    write(tmp_path, {'run.py': FAILING, 'watched_site.py': 'import watched_views'})
    if broken is not None:
        write(tmp_path, {'watched_views.py': broken})
    with Process([sys.executable, '-B', 'run.py'], tmp_path) as process:
        assert process.wait() == 0, process.report()
        said, news = process.out.text.splitlines()
    assert said == failure
    watching = watcher(Files())
    watching.add(json.loads(news))
    (tmp_path / mended).write_text('x = 1')
    assert watching.next() == [mended]


def test_a_forked_child_that_closes_its_watcher_leaves_the_parents_alone(tmp_path):
    script = """
        import os
        from paste_wspbus.watching.loop import Events
        from paste_wspbus.watching.files import Files
        from paste_wspbus.watching.watcher import Watcher
        files, came = Files(), []
        files.add('x')
        watcher = Watcher(Events(), files, came.extend)
        watcher.events.step()
        before = len(os.listdir('/proc/self/fd'))
        child = os.fork()
        if not child:
            watcher.close()
            watcher.events.close()
            os._exit(before - len(os.listdir('/proc/self/fd')))
        print('closed', os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        while not came:
            watcher.events.step()
        print(came, flush=True)
    """
    write(tmp_path, {'run.py': script})
    with Process([sys.executable, 'run.py'], tmp_path) as process:
        assert process.out.wait_for('closed 4'), process.report()
        (tmp_path / 'x').touch()
        assert process.wait() == 0, process.report()
        assert str(tmp_path / 'x') in process.out.text


def test_folders_that_come_and_go_leave_nothing_behind(watcher, site, tmp_path):
    watching = watcher(files_of(site, site.parent), quiet=0)
    away = tmp_path / 'away'
    away.mkdir()

    def change(number):
        below = site.parent / f'below{number}'
        below.mkdir()
        (below / 'x').touch()
        while 'x' not in watching.next():
            pass
        below.rename(away / below.name)
        while 'x' not in watching.next():
            pass

    def kept():
        fd = watching.notices.fileno()
        watches = Path(f'/proc/self/fdinfo/{fd}').read_text().count('inotify wd')
        fds = len(os.listdir('/proc/self/fd'))
        return fds, watches, len(watching.files.signatures)

    change(0)
    before = kept()
    for number in range(1, 100):
        change(number)
    assert kept() == before


def test_a_link_that_leads_elsewhere_is_followed_there(watching, tmp_path):
    write(tmp_path, {'r1/x': '1', 'r2/x': '2', 'l/other': ''})
    link = tmp_path / 'l' / 'linked'
    link.symlink_to('../r1/x')
    plugin = watching(link)
    (tmp_path / 'l' / 'next').symlink_to('../r2/x')
    (tmp_path / 'l' / 'next').rename(link)
    assert plugin.next() == ['linked']
    (tmp_path / 'r2' / 'x').write_text('changed')
    assert plugin.next() == ['linked']


@each_kind
def test_a_link_in_the_middle_of_a_chain_is_followed(kind, watching, tmp_path):
    """A ConfigMap: site.ini -> ..data/site.ini, ..data -> ..1; then ..data -> ..2."""
    for version in ('..1', '..2'):
        (tmp_path / version).mkdir()
        (tmp_path / version / 'site.ini').write_text(version)
    (tmp_path / '..data').symlink_to('..1')
    (tmp_path / 'site.ini').symlink_to('..data/site.ini')
    plugin = watching(tmp_path / 'site.ini', **kind)
    for version in ('..2', '..1'):
        (tmp_path / '..tmp').symlink_to(version)
        os.replace(tmp_path / '..tmp', tmp_path / '..data')
        assert plugin.next() == ['site.ini']
    (tmp_path / '..1' / 'site.ini').write_text('another')
    assert plugin.next() == ['site.ini']
