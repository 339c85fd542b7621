"""Zope on the bus: an instance of mkwsgiinstance, its zope.ini with the filter in it."""

import json
import re
import shutil
import signal
import subprocess

import pytest

from tests.environments import environment
from tests.kit import TIMEOUT, Process, Site, write
from tests.kit.places import DOCS, ROOT, SITES

FILES = SITES / 'zope'
PAGE = DOCS / 'zope.md'


@pytest.fixture(scope='session')
def zope():
    """The folder of the programs of an environment with Zope."""
    return environment('zope') / 'bin'


@pytest.fixture
def instance(zope, tmp_path):
    """An instance: as mkwsgiinstance makes it, and with the views of tests/sites/zope."""
    folder = tmp_path / 'instance'
    words = [zope / 'mkwsgiinstance', '-d', folder, '-u', 'admin:secret']
    subprocess.run(words, check=True, timeout=TIMEOUT)
    (folder / 'etc' / 'package-includes').mkdir()
    shutil.copy(FILES / 'diary-configure.zcml', folder / 'etc' / 'package-includes')
    edit(
        folder,
        'zope.ini',
        ('pipeline =\n', 'pipeline =\n    bus\n'),
        ('port = 8080', 'port = 0'),
        ('[loggers]', INI + '[loggers]'),
    )
    return folder


INI = """\
[filter:bus]
use = egg:paste_wspbus#bus

[wspbus:main]
plugins = journal

[plugin:journal]
use = call:diary:journal

"""


def edit(instance, name, *changes):
    path = instance / 'etc' / name
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)


def serve(zope, instance, *args, program='wspserve', **kwargs):
    words = [zope / part if i == 0 else part for i, part in enumerate(program.split())]
    return Site(
        instance,
        None,
        'etc/zope.ini',
        *args,
        command=words,
        env={'PYTHONPATH': str(FILES)},
        **kwargs,
    )


def facts(site, path='/facts'):
    response = site.get(path)
    assert response.status == 200, site.report()
    return json.loads(response.body)


def told(site):
    """What the site's own code told, in order, without the log's lines."""
    return [line for line in site.err.text.splitlines() if not line.startswith('20')]


def run_python(zope, instance, text):
    """Run a script beside the instance: what it printed."""
    answer = subprocess.run(
        [zope / 'python', '-W', 'ignore', '-c', text],
        cwd=instance,
        env={'PYTHONPATH': str(FILES), 'PATH': ''},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()


OPEN = """
from ZODB.FileStorage import FileStorage

FileStorage('var/Data.fs').close()
print('it can be opened')
"""

IN_ORDER = [
    'STOPPED: DatabaseOpened',
    'STOPPED: DatabaseOpenedWithRoot',
    'STOPPED: ProcessStarting',
    'diary opened: 0 visits',
    'waiting',
    'diary closed: 1 visits',
    'stopped; opened: []',
]


@pytest.mark.parametrize('program', ['wspserve', 'paster wspserve'])
def test_zope_is_stopped_after_its_last_request_and_its_file_is_free_while_the_process_lives(
    zope, instance, program
):
    seen = {'in environ': True, 'resources': {'diary': 'diary'}, 'visits': 0}
    with serve(zope, instance, 'waits=1', program=program) as site:
        assert facts(site) == {**seen, 'state': 'STARTED'}
        with site.connect() as connection:
            connection.send('/wait', connection='close')
            site.expect('waiting\n')
            assert facts(site, '/visit')['visits'] == 1
            site.send(signal.SIGTERM)
            site.expect('Bus STOPPING')
            site.process.stdin.write('go on\n')
            site.process.stdin.flush()
            # It sees the database as it was when it began.
            answer = json.loads(connection.receive().body)
        assert answer == {**seen, 'state': 'STOPPING'}
        site.expect('stopped; ')
        assert site.process.poll() is None
        assert run_python(zope, instance, OPEN) == ['it can be opened']
        site.release()
        assert site.wait() == 0, site.report()
    assert told(site) == IN_ORDER


STOP_AND_START = """
from zope.component import getUtility

import ZODB.FileStorage
from paste_wspbus.testing import composed

with composed('etc/zope.ini', configure_logging=False) as site:
    from paste_wspbus.frameworks.zope import IBus

    bus = getUtility(IBus)
    assert bus is site.bus
    for round in range(3):
        print(site.get('/visit').json['visits'], bus.resources)
        bus.stop()
        {check}
        bus.start()
    print(site.get('/facts').json['visits'])
"""


def test_a_bus_that_is_stopped_and_started_closes_and_opens_the_databases(
    zope, instance
):
    check = "ZODB.FileStorage.FileStorage('var/Data.fs').close()"
    edit(instance, 'zope.ini', ('[loggers]', '[nothing]'))
    lines = run_python(zope, instance, STOP_AND_START.replace('{check}', check))
    assert lines == [
        "1 {'diary': 'diary'}",
        "2 {'diary': 'diary'}",
        "3 {'diary': 'diary'}",
        '3',
    ]


EVENTS = """
import os

os.dup2(1, 2)
from paste_wspbus.testing import composed

with composed('etc/zope.ini', configure_logging=False) as site:
    site.bus.stop()
    site.bus.start()
"""


def test_zopes_events_are_told_again_when_the_databases_are_opened_again(
    zope, instance
):
    edit(instance, 'zope.ini', ('[loggers]', '[nothing]'))
    assert run_python(zope, instance, EVENTS) == [
        'STOPPED: DatabaseOpened',
        'STOPPED: DatabaseOpenedWithRoot',
        'STOPPED: ProcessStarting',
        'diary opened: 0 visits',
        'diary closed: 0 visits',
        'STARTING: DatabaseOpened',
        'STARTING: DatabaseOpenedWithRoot',
        'diary opened: 0 visits',
        'diary closed: 0 visits',
        'stopped; opened: []',
    ]


TWICE = """
from paste_wspbus.testing import composed

for _ in range(2):
    with composed('etc/zope.ini', configure_logging=False) as site:
        print(site.get('/visit').json['visits'], site.get('/facts').json['in environ'])
"""


def test_a_process_that_composes_it_twice_opens_the_databases_for_the_second_bus(
    zope, instance
):
    edit(instance, 'zope.ini', ('[loggers]', '[nothing]'))
    assert run_python(zope, instance, TWICE) == ['1 True', '2 True']


def test_databases_that_are_mounted_are_closed_and_opened_too(zope, instance):
    edit(instance, 'zope.ini', ('[loggers]', '[nothing]'))
    edit(
        instance, 'zope.conf', ('# Uncomment this if', MOUNTED + '# Uncomment this if')
    )
    check = """
        ZODB.FileStorage.FileStorage('var/Data.fs').close()
        ZODB.FileStorage.FileStorage('var/Second.fs').close()
"""
    lines = run_python(zope, instance, STOP_AND_START.replace('{check}', check))
    assert len(lines) == 4


MOUNTED = """
<zodb_db second>
   <filestorage>
     path $INSTANCE/var/Second.fs
   </filestorage>
   mount-point /second
</zodb_db>

"""


CUSTOM = """
import ZODB.FileStorage

Storage = ZODB.FileStorage.FileStorage('var/Custom.fs')
"""

START_FAILS = """
import ZODB.FileStorage
from paste_wspbus.testing import StopFailed, composed

try:
    with composed('etc/zope.ini', configure_logging=False) as site:
        site.bus.stop()
        ZODB.FileStorage.FileStorage('var/Custom.fs').close()
        try:
            site.bus.start()
        except Exception as error:
            print(error)
except StopFailed:
    print('failed')
"""


def test_databases_of_custom_zodb_are_closed_and_not_mistaken_for_others(
    zope, instance
):
    edit(instance, 'zope.ini', ('[loggers]', '[nothing]'))
    (instance / 'custom_zodb.py').write_text(CUSTOM)
    line, end = run_python(zope, instance, START_FAILS)
    assert 'from custom_zodb.py and cannot be opened again in this process' in line
    assert end == 'failed'


def test_workers_that_are_forked_after_zope_was_composed_do_not_start(zope, instance):
    edit(instance, 'zope.ini', ('[wspbus:main]', '[wspbus:main]\npreload = true'))
    with serve(zope, instance, '--workers', '1', wait=False) as site:
        assert site.wait() == 1
    assert '[app:main]: Zope opened its databases before' in site.err.text


def test_a_worker_that_composes_zope_itself_serves_it_and_is_not_renewed_beside_itself(
    zope, instance
):
    with serve(zope, instance, '--workers', '1', '--pid-file', 'pid') as site:
        assert facts(site)['state'] == 'STARTED'
        renewed = graceful(zope, instance)
        assert renewed.returncode == 1
        assert "LockError: Couldn't lock" in renewed.stderr
        assert facts(site)['state'] == 'STARTED'
        code, _, _ = site.stop()
    assert code == 0, site.report()
    assert told(site)[-2:] == ['diary closed: 0 visits', 'stopped; opened: []']


def graceful(zope, instance):
    words = [zope / 'wspserve', 'etc/zope.ini', 'graceful', '--pid-file', 'pid']
    return subprocess.run(
        words, cwd=instance, capture_output=True, text=True, timeout=TIMEOUT
    )


def test_workers_share_the_database_of_a_zeo_server_and_are_renewed(zope, instance):
    # Two processes that fill an empty database at once have a conflict.
    run_python(zope, instance, MAKE_ROOT)
    client = '<zeoclient>\n     server $INSTANCE/var/zeo\n   </zeoclient>'
    edit(instance, 'zope.conf', (FILESTORAGE, client))
    (instance / 'zeo.conf').write_text(ZEO)
    args = '--workers', '2', '--pid-file', 'pid'
    with (
        Process([zope / 'runzeo', '-C', 'zeo.conf'], instance),
        serve(zope, instance, *args) as site,
    ):
        for visit in range(1, 5):
            assert facts(site, '/visit')['visits'] == visit
        assert graceful(zope, instance).returncode == 0
        assert facts(site, '/visit')['visits'] == 5
        assert site.stop()[0] == 0
    assert told(site).count('stopped; opened: []') == 4


MAKE_ROOT = """
from paste_wspbus.testing import composed

with composed('etc/zope.ini', configure_logging=False):
    pass
"""

FILESTORAGE = """\
<filestorage>
     path $INSTANCE/var/Data.fs
   </filestorage>"""

ZEO = """\
<zeo>
  address var/zeo
</zeo>
<filestorage 1>
  path var/Data.fs
</filestorage>
"""


WARNING = r'Zope \d+\.\d.*: '


def test_a_zope_whose_internals_moved_is_served_without_the_hook(zope, instance):
    filters = ('    zope\n', '    moved\n    zope\n')
    section = ('[filter:bus]', '[filter:moved]\nuse = call:diary:moved\n\n[filter:bus]')
    edit(instance, 'zope.ini', filters, section, ('journal\n\n[', '\n\n['))
    with serve(zope, instance) as site:
        assert site.get('/served').text == 'served'
        code, _, err = site.stop()
    assert code == 0, site.report()
    warning = WARNING + 'its applications are served without the bus in their globals'
    assert len(re.findall(warning, err)) == 1


def test_a_utility_of_the_sites_own_stays_and_the_databases_are_closed_all_the_same(
    zope, instance
):
    section = ('[filter:bus]', '[filter:own]\nuse = call:diary:own\n\n[filter:bus]')
    edit(instance, 'zope.ini', ('    zope\n', '    own\n    zope\n'), section)
    with serve(zope, instance) as site:
        assert site.get('/served').text == 'served'
        code, _, err = site.stop()
    assert code == 0, site.report()
    warning = WARNING + "the utility IBus is the site's own and stays as it is"
    assert len(re.findall(warning, err)) == 1
    assert told(site)[-1] == 'stopped; opened: []'


def index_is_saved(zope, instance):
    """Whether the index covers the whole file; the next start reads the rest."""
    script = """
from os.path import getsize
from ZODB.fsIndex import fsIndex
print(fsIndex.load('var/Data.fs.index')['pos'] == getsize('var/Data.fs'))
"""
    return run_python(zope, instance, script) == ['True']


def test_runwsgi_dies_of_sigterm_and_closes_nothing(zope, instance):
    with serve(zope, instance, program='runwsgi', wait=False) as site:
        site.expect('Serving on http://')
        site.url = re.search(r'Serving on (http://[\d.]+:\d+)', site.err.text)[1]
        assert facts(site, '/visit')['visits'] == 1
        with site.connect() as connection:
            connection.send('/wait')
            site.expect('waiting\n')
            assert site.stop()[0] == -signal.SIGTERM
            with pytest.raises(ConnectionError):
                connection.receive()
    assert told(site)[-2:] == ['diary opened: 0 visits', 'waiting']
    assert not index_is_saved(zope, instance)


def test_wspserve_saves_the_index_at_sigterm(zope, instance):
    with serve(zope, instance) as site:
        facts(site, '/visit')
        assert site.stop()[0] == 0
    assert index_is_saved(zope, instance)


def test_a_restart_opens_the_databases_that_the_old_process_closed(zope, instance):
    with serve(zope, instance) as site:
        assert facts(site, '/visit')['visits'] == 1
        site.send(signal.SIGHUP)
        site.wait_until_served(2)
        assert facts(site, '/visit')['visits'] == 2
        assert site.stop()[0] == 0
    assert told(site).count('stopped; opened: []') == 2


def test_the_instance_of_mkwsgiinstance_is_served_unchanged_and_so_is_the_example(
    zope, tmp_path
):
    words = [zope / 'mkwsgiinstance', '-d', tmp_path / 'instance', '-u', 'admin:secret']
    subprocess.run(words, check=True, timeout=TIMEOUT)
    write(tmp_path / 'instance', examples())
    words = ['instance/etc/zope.ini', '--listen', '127.0.0.1:0']
    with Site(tmp_path, None, *words, command=[zope / 'wspserve']) as site:
        assert site.get('/version').text.startswith('SQLite 3.')
        assert site.stop()[0] == 0
    assert 'Bus EXITED' in site.err.text


def examples():
    """The files of docs/zope.md: the name is in the first line."""
    blocks = re.findall(r'```(?:python|xml)\n(.*?)```', PAGE.read_text(), re.S)
    return {re.search(r'etc/\S+', block)[0]: block for block in blocks}


#: Checks a database of ZODB, in an environment that has it.
ZODB = """
import sys
import ZODB, ZODB.FileStorage
from paste_wspbus.ops.found import check_of

database = ZODB.DB(ZODB.FileStorage.FileStorage(sys.argv[1]))
check = check_of(database)
assert check() is None
database.storage.is_connected = lambda: False
try:
    check()
except ConnectionError as error:
    print(error)
"""


def test_the_health_check_of_a_database_loads_an_object(zope, tmp_path):
    done = subprocess.run(
        [zope / 'python', '-c', ZODB, str(tmp_path / 'Data.fs')],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.stdout == 'the storage is not connected\n', done.stderr
