"""`drain` and `undrain`: health checks take a site out of service, and it keeps serving."""

import signal

import pytest

from tests.kit import Site, eventually, run
from tests.kit.processes import kill
from tests.kit.stand_in import status_json

MORE = """
def make_check(global_conf, **conf):
    bus = global_conf['wspbus'].bus
    bus.subscribe('drain', lambda: say('drain was published'))

    def app(environ, start_response):
        start_response('200 OK', [])
        return [f'{bus.state.name} {bus.drained} {os.getpid()}'.encode()]
    return app
"""


@pytest.fixture
def checked(ground):
    path = ground.folder / 'webapp.py'
    path.write_text(path.read_text() + MORE)
    ground.change(app='make_check')
    return ground


def command(ground, name, code=0):
    told = ground.run('site.ini', name)
    assert told.code == code, ground.report(told)
    return told.out.text + told.err.text


def flags(ground):
    return ground.get().split()[1]


def test_a_drained_site_keeps_serving_until_it_is_undrained(checked):
    checked.start()
    pid = checked.pid
    assert flags(checked) == 'False'
    line = (
        f'The site (process {pid}) is drained (bus.drained is true), and keeps serving.'
    )
    assert command(checked, 'drain') == f'{line}\n'
    assert checked.get() == f'STARTED True {pid}'
    assert (
        'It is drained: bus.drained is true (undrain ends that).'
        in (checked.status()[1])
    )
    assert status_json(checked.folder)[1]['drained'] is True
    assert (
        command(checked, 'drain') == f'The site (process {pid}) was drained already.\n'
    )
    assert command(checked, 'undrain').endswith(
        'is not drained any more: bus.drained is false.\n'
    )
    assert checked.get() == f'STARTED False {pid}'
    assert command(checked, 'undrain') == f'The site (process {pid}) was not drained.\n'
    assert 'drained' not in checked.status()[1]
    assert 'drain was published' not in checked.log


@pytest.mark.parametrize('way', ['graceful', 'SIGHUP'])
def test_one_process_stays_drained_over_a_restart_in_place(checked, way):
    checked.start()
    command(checked, 'drain')
    since = status_json(checked.folder)[1]['since']
    if way == 'graceful':
        command(checked, 'graceful')
    else:
        kill(checked.pid, signal.SIGHUP)
    eventually(lambda: status_json(checked.folder)[1].get('since', since) != since)
    eventually(lambda: status_json(checked.folder)[1].get('state') == 'STARTED')
    status = status_json(checked.folder)[1]
    assert status['drained'] is True
    checked.url = status['urls'][0]
    assert flags(checked) == 'True'


@pytest.mark.parametrize('preload', [False, True])
def test_workers_that_start_later_are_drained_as_well(checked, preload):
    ini = checked.folder / 'site.ini'
    head = '[wspbus:main]\n'
    ini.write_text(ini.read_text().replace(head, f'{head}preload = {preload}\n'))
    checked.start('--workers=2')
    command(checked, 'drain')
    eventually(lambda: {flags(checked) for _ in range(20)} == {'True'})
    command(checked, 'graceful')
    assert {flags(checked) for _ in range(20)} == {'True'}
    kill(int(checked.get().split()[2]))
    eventually(lambda: _all_are_ready(checked))
    assert {flags(checked) for _ in range(20)} == {'True'}
    assert status_json(checked.folder)[1]['drained'] is True
    command(checked, 'undrain')
    eventually(lambda: {flags(checked) for _ in range(20)} == {'False'})
    # The preloaded code was loaded for a drained site.
    kill(int(checked.get().split()[2]))
    eventually(lambda: _all_are_ready(checked))
    assert {flags(checked) for _ in range(20)} == {'False'}


def _all_are_ready(ground):
    workers = status_json(ground.folder)[1]['workers']
    states = [one['state'] for one in workers if one['name'].startswith('worker')]
    return states == ['ready', 'ready']


def test_a_site_in_the_foreground_is_drained(checked):
    with Site(checked.folder, None, 'site.ini') as site:
        eventually(lambda: run(checked.folder, 'site.ini', 'drain').code == 0)
        assert site.get().text.split()[1] == 'True'
        assert site.stop()[0] == 0, site.report()


@pytest.mark.parametrize('name', ['drain', 'undrain'])
def test_a_site_that_does_not_run_is_not_drained(checked, name):
    assert command(checked, name, 3).startswith('The site is not running: ')


def test_a_killed_site_is_not_drained(checked):
    checked.start()
    kill(checked.pid)
    assert command(checked, 'drain', 3).startswith('The site is not running: ')


def test_a_site_of_another_version_refuses(folder, site):
    told = run(folder, 'site.ini', 'drain')
    assert told.code == 1
    words = f'The site (process {site.pid}) refuses: this site speaks version 1, with '
    assert told.err.text.startswith(words)


def test_one_subcommand_at_a_time(folder):
    told = run(folder, 'site.ini', 'drain', 'undrain')
    assert told.code == 2
    assert told.err.text == 'give one subcommand only: drain, undrain\n'
