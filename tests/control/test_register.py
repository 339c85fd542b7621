"""The register has an entry for each running site; it may have entries of killed sites, too."""

import json
import os
import resource
import signal
import stat
import sys

import pytest

from paste_wspbus.control import register
from paste_wspbus.control.register import Registration, read_entries
from tests.kit import Process, Site, eventually, write
from tests.kit.daemons import WEBAPP, ini
from tests.kit.users import AS_NOBODY, NOBODY, python_for_all

#: What a site writes.
FIELDS = {'ini': '/x/site.ini', 'file': '/y/site.ini', 'server': 'main', 'app': 'main'}

#: A process that has an entry until its input ends.
HOLDER = """
import json, sys
from paste_wspbus.control.register import Registration
entry = Registration(sys.argv[1], '/y/site.ini')
entry.write(**json.loads(sys.argv[2]), control=entry.control)
print('there', flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The only folder of entries."""
    folder = tmp_path / 'sites'
    folder.mkdir(0o700)
    monkeypatch.setenv('RUNTIME_DIRECTORY', str(folder))
    return folder


def ours(folder):
    return [one for one in read_entries(())[0] if one.path.startswith(f'{folder}/')]


def begin(folder, **fields):
    words = [sys.executable, '-c', HOLDER, folder, json.dumps({**FIELDS, **fields})]
    return Process(words, folder)


def test_the_system_names_the_process_of_an_entry(folder):
    with begin(folder, server='web1') as site:
        assert site.out.wait_for('there'), site.report()
        (entry,) = ours(folder)
        assert (entry.holder, entry.has_ended) == (site.pid, False)
        assert entry.is_held_by() == site.pid
        assert (entry.ini, entry.owner) == ('/x/site.ini', os.geteuid())
        assert entry.sections == ' [server:web1]'
        site.process.kill()
        site.wait()
        (entry,) = ours(folder)
        assert (entry.holder, entry.has_ended) == (None, True)


def test_two_processes_have_two_entries_and_the_next_one_removes_the_dead(folder):
    with begin(folder) as one, begin(folder) as two:
        for site in (one, two):
            assert site.out.wait_for('there'), site.report()
        assert {entry.holder for entry in ours(folder)} == {one.pid, two.pid}
        one.process.kill()
        one.wait()
        with begin(folder) as three:
            assert three.out.wait_for('there'), three.report()
            assert {entry.holder for entry in ours(folder)} == {two.pid, three.pid}
            assert len(os.listdir(folder)) == 4


def test_it_is_readable_for_all_and_gone_at_the_end(folder):
    before = os.umask(0o077)
    try:
        entry = Registration(str(folder), '/y/site.ini')
        entry.write(**FIELDS, control=entry.control)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(one.stat().st_mode) for one in folder.iterdir()}
    assert modes == {0o644}
    entry.close()
    assert os.listdir(folder) == []


@pytest.mark.parametrize('make', [os.link, os.symlink])
def test_no_other_file_is_written_where_the_entry_was(folder, tmp_path, make):
    precious = tmp_path / 'precious'
    precious.write_text('precious')
    entry = Registration(str(folder), '/y/site.ini')
    entry.write(**FIELDS, control=entry.control)
    os.unlink(entry.path)
    make(precious, entry.path)
    entry.write(**FIELDS, control=entry.control)
    assert precious.read_text() == 'precious'
    assert [one.holder for one in ours(folder)] == [
        None
    ]  # it does not hold its own lock
    entry.close()
    assert os.listdir(folder) == []


def test_it_is_gone_at_the_end_although_its_lock_was_removed(folder):
    entry = Registration(str(folder), '/y/site.ini')
    entry.write(**FIELDS, control=entry.control)
    os.unlink(entry.lock)
    entry.close()
    assert os.listdir(folder) == []


def test_a_file_that_another_program_has_put_there_stays(folder):
    entry = Registration(str(folder), '/y/site.ini')
    entry.write(**FIELDS, control=entry.control)
    os.unlink(entry.path)
    with open(entry.path, 'w') as other:
        other.write('precious')
    entry.close()
    assert os.listdir(folder) == [os.path.basename(entry.path)]


def test_an_entry_that_cannot_be_written_stays_as_it_was(folder):
    entry = Registration(str(folder), '/y/site.ini')
    entry.write(**FIELDS, control=entry.control)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(OSError, match='File too large'):
            entry.write(**FIELDS, control=entry.control, log_file='/other')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert entry.fields == {**FIELDS, 'control': entry.control}
    assert len(os.listdir(folder)) == 2
    entry.close()


def test_a_forked_child_neither_holds_nor_removes_it(folder):
    entry = Registration(str(folder), '/y/site.ini')
    entry.write(**FIELDS, control=entry.control)
    child = os.fork()
    if not child:
        entry.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert len(os.listdir(folder)) == 2
    entry.close()


@pytest.mark.parametrize('name', ['x' * 255, 'é' * 127, '\udcff.ini', 'a b\n.ini'])
def test_an_ini_of_any_name_has_an_entry(folder, name):
    entry = Registration(str(folder), f'/y/{name}')
    entry.write(**{**FIELDS, 'file': f'/y/{name}'}, control=entry.control)
    (found,) = ours(folder)
    assert found.file == f'/y/{name}'
    entry.close()


def test_a_folder_of_another_user_is_read_only_to_a_limit(folder, monkeypatch):
    monkeypatch.setattr(register, 'MAX_FILES', 3)
    for number in range(10):
        text = json.dumps({**FIELDS, 'control': '/x'})
        (folder / f'{number}.json').write_text(text)
    assert len(ours(folder)) == 3


def test_the_user_of_a_site_cannot_change_what_root_has_written(folder, tmp_path):
    """Root takes the log file of `restart` from it."""
    python, path = python_for_all()
    place = tmp_path / 'place'
    write(place, {'site.ini': ini(), 'webapp.py': WEBAPP + FORGES})
    os.chmod(folder, 0o755)
    for one in (place, *place.parents):
        if (
            one != one.parent
            and one.stat().st_uid == os.geteuid()
            and one.name != 'tmp'
        ):
            os.chmod(one, one.stat().st_mode | 0o055)
    env = {'PYTHONPATH': path}
    with Site(
        place,
        None,
        'site.ini',
        *AS_NOBODY,
        command=[python, '-m', 'paste_wspbus'],
        env=env,
    ) as site:
        eventually(lambda: 'forged' in site.err.text)
        (entry,) = ours(folder)
        assert (entry.holder, entry.log_file) == (site.pid, None)
        assert entry.ini == f'{place}/site.ini'
        lock = entry.path.replace('.json', '.lock')
        assert os.stat(lock).st_uid == NOBODY.pw_uid
        assert os.stat(entry.path).st_uid == os.geteuid()


#: A site that writes into each file that it has open, and into its entry.
FORGES = """
for name in os.listdir('/proc/self/fd'):
    path = os.path.realpath(f'/proc/self/fd/{name}')
    for target in (int(name), path.replace('.lock', '.json')):
        try:
            if '.ini-' in path:
                fd = target if isinstance(target, int) else os.open(target, os.O_RDWR)
                os.pwrite(fd, b'{"log_file": "/etc/forged"}', 0)
        except OSError:
            pass
say('forged')
"""
