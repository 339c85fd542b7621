"""`wspserve ps` lists the running sites; of other users' sites it shows only a part."""

import contextlib
import errno
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from paste_wspbus.command import ps
from paste_wspbus.control.client import NoAnswer
from tests.kit import Process, Site, eventually, run, write
from tests.kit.daemons import WEBAPP, ini
from tests.kit.stand_in import StandIn
from tests.kit.users import NOBODY

HEADING = 'PROCESS  USER  STATE  GENERATION  SINCE  SERVING  SITE'


def listed(folder, **kwargs):
    """Return what `ps --json` says of the sites in this folder: {the .ini's name: site}."""
    told = run(folder, 'ps', '--json', **kwargs)
    assert told.code == 0, told.report()
    sites = json.loads(told.out.text)
    return {
        os.path.basename(site['ini']): site
        for site in sites
        if site['ini'].startswith(str(folder))
    }


@pytest.fixture
def sites(folder):
    """A folder with the files of three sites."""
    write(folder, {'webapp.py': WEBAPP, 'one.ini': ini(), 'two.ini': ini()})
    return folder


def test_it_lists_sites_in_the_foreground_and_daemons(sites):
    with Site(sites, None, 'one.ini', '--workers=1') as one:
        assert run(sites, 'two.ini', 'start').code == 0
        there = listed(sites)
        assert there['one.ini']['pid'] == one.pid
        assert there['one.ini']['urls'] == [one.url]
        assert there['two.ini']['pid_file'] == str(sites / 'paster.pid')
        for site in there.values():
            assert (site['state'], site['generation'], site['user']) == (
                'STARTED',
                1,
                'root',
            )
        lines = run(sites, 'ps').out.text.splitlines()
        assert lines[0].split() == HEADING.split()
        (line,) = [one for one in lines if one.endswith(f' {sites}/one.ini')]
        assert line.startswith(f'{one.pid} ')
        assert one.url in line
        assert run(sites, 'two.ini', 'stop').code == 0
        assert set(listed(sites)) == {'one.ini'}


def test_a_killed_site_is_not_listed(sites):
    with Site(sites, None, 'one.ini') as one:
        one.send(signal.SIGKILL)
        one.wait()
    assert run(sites, 'two.ini', 'start').code == 0
    os.kill(int((sites / 'paster.pid').read_text()), signal.SIGKILL)
    eventually(lambda: listed(sites) == {})


def test_a_site_that_does_not_answer_holds_up_nothing(sites):
    silent = StandIn(sites, '--runtime', '--silent')
    with silent, Site(sites, None, 'one.ini') as one:
        there = listed(sites)
    assert (there['site.ini']['state'], there['site.ini']['pid']) == (
        'does not answer',
        silent.pid,
    )
    assert there['one.ini']['pid'] == one.pid


@pytest.mark.parametrize(
    ('code', 'state'),
    [(errno.EACCES, 'not permitted'), (errno.ECONNREFUSED, 'does not answer')],
)
def test_a_site_that_this_user_may_not_ask_is_not_said_to_be_silent(
    monkeypatch, code, state
):
    def refuse(path, seconds):
        raise NoAnswer(path, os.strerror(code), code)

    monkeypatch.setattr(ps, 'connect', refuse)
    entry = SimpleNamespace(owner=os.geteuid())
    found = SimpleNamespace(control='/run/site.sock')
    assert ps._ask(entry, found, False) == ({}, state)


def test_control_characters_of_a_site_are_escaped(sites):
    with StandIn(sites, '--runtime') as site:
        site.tell(
            status={'state': 'UP\x1b[2J\u202e', 'urls': ['http://\x07'], 'since': 1e99}
        )
        told = run(sites, 'ps').out.text
    assert '\x1b' not in told
    assert '\x07' not in told
    assert 'UP\\x1b[2J\\u202e' in told


def test_without_a_site_there_is_a_heading(tmp_path):
    """As nobody: other tests may run sites as root."""
    runtime = tmp_path / 'runtime'
    runtime.mkdir(0o700)
    told = run(tmp_path, 'ps', env={'RUNTIME_DIRECTORY': str(runtime)})
    assert told.out.text.splitlines()[0].split() == HEADING.split()
    assert told.code == 0


def test_it_takes_no_file_and_a_file_of_its_name_is_served(sites):
    told = run(sites, 'ps', 'one.ini')
    assert (told.code, told.err.text.count('\n')) == (2, 1)
    (sites / 'one.ini').rename(sites / 'ps')
    with Site(sites, None, 'ps') as site:
        assert site.get().status == 200


# -- other users ----------------------------------------------------------------------


@pytest.fixture
def theirs(sites):
    """The folder of nobody's entries, of which root reads those."""
    folder = Path(f'/tmp/paste_wspbus-{NOBODY.pw_uid}')
    was_there = folder.exists()
    folder.mkdir(0o700, exist_ok=True)
    os.chown(folder, NOBODY.pw_uid, NOBODY.pw_gid)
    entry = folder / f'forged.ini-{os.getpid()}.json'
    yield entry
    entry.unlink(missing_ok=True)
    if not was_there:
        folder.rmdir()


def forge(entry, sites, **fields):
    usual = {'ini': f'{sites}/site.ini', 'file': '', 'server': 'main', 'app': 'main'}
    entry.write_text(json.dumps({**usual, **fields}))
    os.chown(entry, NOBODY.pw_uid, NOBODY.pw_gid)


@pytest.mark.parametrize('with_pid_file', [True, False])
def test_an_entry_that_names_a_process_of_roots_is_not_believed(
    sites, theirs, with_pid_file
):
    """Nobody says that its site is the one that root runs."""
    with StandIn(sites, *([] if with_pid_file else ['--runtime'])) as site:
        (real,) = [one for one in listed(sites).values() if one['pid'] == site.pid]
        forge(
            theirs,
            sites,
            ini=f'{sites}/forged.ini',
            control=real['control'],
            pid_file=real['pid_file'],
        )
        assert 'forged.ini' not in listed(sites)
        for subcommand in ('status', 'stop'):
            told = run(sites, 'forged.ini', subcommand, '--user=nobody')
            assert 'not running' in told.out.text, told.report()
        assert site.process.poll() is None


def test_what_is_in_the_place_of_an_entry_is_not_opened(sites, theirs):
    (sites / 'secret').write_text('{}')
    for make in (
        lambda: theirs.symlink_to(sites / 'secret'),
        lambda: os.mkfifo(theirs),
        lambda: theirs.write_text('[' * 100_000),
        lambda: forge(theirs, sites, control='relative'),
        lambda: forge(theirs, sites, control=7),
        lambda: forge(theirs, sites, control='/x', pid_file='/\0'),
    ):
        make()
        assert listed(sites) == {}
        theirs.unlink()


CLAIMS = """
import os, sys, _blake2
from paste_wspbus.control.register import Registration
from paste_wspbus.control.server import Control
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
entry = Registration(sys.argv[1], os.path.realpath('site.ini'))
control = Control(entry.control, {})
control.open()
ini = os.path.abspath('site.ini')
entry.write(ini=ini, file=ini, server='main', app='main', control=entry.control)
print('there', flush=True)
sys.stdin.read()
entry.close()
control.close()
"""


@contextlib.contextmanager
def begun_claim(sites, folder):
    with Process([sys.executable, '-c', CLAIMS, folder], sites) as claimant:
        assert claimant.out.wait_for('there'), claimant.report()
        yield claimant
        claimant.release()
        assert claimant.wait() == 0, claimant.report()


def test_a_site_of_a_user_who_does_not_own_the_ini_is_a_claim(sites, theirs):
    with begun_claim(sites, theirs.parent) as claimant:
        site = listed(sites)['site.ini']
        assert (site['pid'], site['user'], site['is_claim']) == (
            claimant.pid,
            'nobody',
            True,
        )
        assert f'claims to be {sites}/site.ini' in run(sites, 'ps').out.text
        told = run(sites, 'site.ini', 'status')
        assert (told.code, '--user nobody' in told.out.text) == (4, True)
        assert run(sites, 'site.ini', 'stop').code == 4
        told = run(sites, 'site.ini', 'status', '--user', 'nobody')
        assert f'process {claimant.pid}' in told.out.text
    assert run(sites, 'site.ini', 'status').code == 3
