"""``wspserve --from uwsgi.ini``: what it prints can be served."""

import re

import pytest

from paste_wspbus.errors import ConfigError
from paste_wspbus.ini.config import Config
from paste_wspbus.migration.uwsgi import MODULES, OF_SERVER, SIMPLE, translate
from paste_wspbus.migration.uwsgi_jobs import job_of
from paste_wspbus.migration.uwsgi_keys import NO_COUNTERPART, NOT_NEEDED, REASONS
from paste_wspbus.plugins.schedule import Schedule, cron_line, local_zone
from tests.kit import run


def translated(folder, text):
    (folder / 'uwsgi.ini').write_text(f'[uwsgi]\n{text}')
    return translate(str(folder / 'uwsgi.ini'))


def words_of(text):
    return ' '.join(text.replace('\n;', ' ').split())


def configured(folder, text):
    """The .ini that comes out, read and checked as wspserve reads it."""
    (folder / 'site.ini').write_text(translated(folder, text))
    return Config(str(folder / 'site.ini'), {}, str(folder))


@pytest.mark.parametrize(
    'text, key, value',
    [
        ('processes = 4', 'workers', 4),
        ('workers = 4 ; four', 'workers', 4),
        ('processes = 2\nprocesses = 3', 'workers', 3),
        ('master = true', 'workers', 1),
        ('master = true', 'preload', False),
        ('processes = 1', 'workers', 0),
        ('processes = 1\nmaster', 'workers', 1),
        ('master = false', 'workers', 0),
        ('processes = 2', 'preload', True),
        ('processes = 2\nlazy-apps = true', 'preload', False),
        ('processes = 2\nlazy-apps', 'preload', False),
        ('processes = 2\nlazy-apps = false', 'preload', True),
        ('max-requests = 5000', 'max_requests', 5000),
        ('max-requests = 5000', 'workers', 1),
        ('max-worker-lifetime = 3600', 'max_age', 3600.0),
        ('reload-on-rss = 300', 'max_memory', 300 * 2**20),
        ('worker-reload-mercy = 20\nprocesses = 2', 'stop_timeout', 22.0),
        ('pidfile = /run/a.pid', 'pid_file', '/run/a.pid'),
        ('logto = /var/log/a.log', 'log_file', '/var/log/a.log'),
        ('daemonize = /var/log/a.log', 'log_file', '/var/log/a.log'),
        ('daemonize = 10.0.0.1:514', 'log_file', None),
    ],
)
def test_options_of_uwsgi_become_keys_of_the_bus(tmp_path, text, key, value):
    assert configured(tmp_path, text).settings[key] == value


def test_harakiri_is_the_deadline_of_a_request(tmp_path):
    settings = configured(tmp_path, 'harakiri = 60').settings
    assert settings['request_deadline'] is not None
    assert settings['workers'] == 1


@pytest.mark.parametrize('one', ['%k'])
def test_as_many_workers_as_cpus(tmp_path, one):
    assert 'workers = auto' in translated(tmp_path, f'processes = {one}')


@pytest.mark.parametrize(
    'text, server',
    [
        ('http-socket = :8000', {'host': '0.0.0.0', 'port': '8000'}),
        ('http = *:8000', {'host': '0.0.0.0', 'port': '8000'}),
        (
            'http = 127.0.0.1:8000\nsocket = /run/a',
            {'host': '127.0.0.1', 'port': '8000'},
        ),
        ('http = [::1]:8000', {'listen': '[::1]:8000'}),
        ('http-socket = :1\nhttp-socket = :2', {'listen': '0.0.0.0:1 0.0.0.0:2'}),
        ('socket = /run/a', {'listen': 'unix:/run/a'}),
        ('socket = @a', {'listen': 'unix:@a'}),
        (
            'socket = /run/a\nchmod-socket = 660\nchown-socket = a:root',
            {'listen': 'unix:/run/a?mode=660&group=root'},
        ),
        ('socket = /run/a\nchmod-socket', {'listen': 'unix:/run/a?mode=666'}),
        ('threads = 4', {'threads': '4'}),
        ('processes = 2', {'threads': '1'}),
        ('listen = 1024', {'backlog': '1024'}),
        ('http-timeout = 120', {'channel_timeout': '120'}),
    ],
)
def test_options_of_uwsgi_become_keys_of_the_server(tmp_path, text, server):
    section = configured(tmp_path, text).section('server:main')
    assert server.items() <= section.items()
    assert section['use'] == 'egg:waitress'


@pytest.mark.parametrize(
    'text, app',
    [
        ('module = shop', {'app': 'shop:application'}),
        ('module = shop:app', {'app': 'shop:app'}),
        ('wsgi = shop\ncallable = make()', {'app': 'shop:make()'}),
        ('wsgi-file = shop.wsgi\ncallable = app', {'file': 'shop.wsgi', 'app': 'app'}),
        ('module = a\nchdir = /srv\npp = /lib', {'path': '/srv /lib'}),
        ('module = a\nenv = A=b=c%%d', {'env.A': 'b=c%d'}),
    ],
)
def test_the_application_of_uwsgi_becomes_that_of_the_ini(tmp_path, text, app):
    assert app.items() <= configured(tmp_path, text).section('app:main').items()


def test_an_environment_variable_keeps_its_name(tmp_path, monkeypatch):
    text = translated(tmp_path, 'processes = $(N)\nmodule = m\nenv = PASSWORD=$(WORD)')
    assert 'workers = %(ENV_N)s' in text
    assert 'env.PASSWORD = %(ENV_WORD)s' in text
    monkeypatch.setenv('N', '3')
    monkeypatch.setenv('WORD', 's3cret')
    (tmp_path / 'site.ini').write_text(text)
    config = Config(str(tmp_path / 'site.ini'), {}, str(tmp_path))
    assert config.settings['workers'] == 3


def test_files_and_mounts_make_a_composite(tmp_path):
    config = configured(
        tmp_path,
        'module = shop\nmount = /api=api.py\nstatic-map = /s=/srv/s\n'
        'static-map2 = /m=/srv\nmount = example.com=x',
    )
    assert config.section('composite:main') == {
        'use': 'egg:Paste#urlmap',
        '/': 'site',
        '/api': 'mount1',
        '/s': 'static1',
        '/m': 'static2',
        **{key: config.section('composite:main')[key] for key in ('here', '__file__')},
    }
    assert config.section('app:mount1')['file'] == 'api.py'
    assert config.section('app:static2')['document_root'] == '/srv/m'


def test_a_paste_application_stays_where_it_is(tmp_path):
    text = translated(tmp_path, 'ini-paste-logged = %dgone.ini\nprocesses = 2')
    assert f'Add these sections to {tmp_path}/gone.ini' in words_of(text)
    assert '[app:' not in text


def test_each_key_is_answered(tmp_path):
    known = {*REASONS, *SIMPLE, *OF_SERVER, *MODULES}
    assert len(known) > 200
    assert len(REASONS) == sum(
        len(keys) for table in (NOT_NEEDED, NO_COUNTERPART) for keys in table.values()
    )
    text = translated(tmp_path, '\n'.join(f'{key} = 1' for key in REASONS))
    words = words_of(text)
    for key, (_, why) in REASONS.items():
        if key not in ('chdir', 'pythonpath', 'python-path', 'pp', 'env'):
            assert f'{key} = 1: {why}' in words or key in ('yaml', 'xml', 'json'), key
    assert re.search('Without a counterpart', text)
    assert re.search('Not needed', text)


def test_an_unknown_key_is_named_but_no_placeholder(tmp_path):
    text = translated(
        tmp_path, 'base = /srv\nvaccum = true\nmodule = m\nchdir = %(base)'
    )
    assert 'vaccum = true: this is no option of uWSGI that wspserve knows' in text
    assert 'base =' not in text


def test_the_content_of_a_file_is_not_shown(tmp_path):
    (tmp_path / 'key').write_text('s3cret')
    text = translated(tmp_path, f'foo = @({tmp_path}/key)')
    assert 's3cret' not in text


def test_a_number_below_zero_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r'processes: .-1. is below 0'):
        translated(tmp_path, 'processes = -1')


#: What DevStack writes for each API of OpenStack, Tutor for Open edX, and what Kinto's
#: example has. Only the addresses are others.
PUBLISHED = {
    'openstack': """
chmod-socket = 666
socket = nova-api.socket
start-time = %t
lazy-apps = true
add-header = Connection: close
buffer-size = 65535
hook-master-start = unix_signal:15 gracefully_kill_them_all
thunder-lock = true
plugins = http,python3
enable-threads = true
worker-reload-mercy = 80
exit-on-reload = false
die-on-term = true
master = true
processes = 2
module = site_of_uwsgi:application
""",
    'openedx': """
static-map = /static=static/
http = 127.0.0.1:0
buffer-size = 8192
wsgi-file = $(SERVICE_VARIANT)_of_uwsgi.py
processes = $(UWSGI_WORKERS)
thunder-lock = true
single-interpreter = true
enable-threads = true
http-keepalive = 1
add-header = Connection: Keep-Alive
die-on-term = true
lazy-apps = false
need-app = true
no-defer-accept = true
master = true
py-call-osafterfork = true
vacuum = true
""",
    'kinto': """
wsgi-file = site_of_uwsgi.py
enable-threads = true
socket = kinto.sock
chmod-socket = 666
processes =  3
master = true
harakiri = 120
lazy = true
lazy-apps = true
single-interpreter = true
buffer-size = 65535
post-buffering = 65535
""",
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_files_can_be_served(tmp_path, name):
    code = 'def application(environ, start_response):\n    return []\n'
    (tmp_path / 'site_of_uwsgi.py').write_text(code)
    (tmp_path / 'uwsgi.ini').write_text(f'[uwsgi]{PUBLISHED[name]}')
    (tmp_path / 'static').mkdir()
    printed = run(tmp_path, '--from', 'uwsgi.ini')
    assert printed.code == 0, printed.report()
    (tmp_path / 'site.ini').write_text(printed.out.text)
    env = {'SERVICE_VARIANT': 'site', 'UWSGI_WORKERS': '2'}
    checked = run(tmp_path, '--check', '--compose', 'site.ini', env=env)
    assert 'site.ini: no mistakes found' in checked.out.text, checked.report()


@pytest.mark.parametrize(
    'words, said',
    [
        (['--from', 'gone.ini'], 'gone.ini: there is no such file'),
        (['--from', 'gone.ini', 'site.ini'], 'leave out site.ini'),
        (['--from'], '--from FILE needs the .ini of a uWSGI site'),
    ],
)
def test_mistakes_are_one_line(tmp_path, words, said):
    process = run(tmp_path, *words)
    assert process.code == 2
    assert said in process.err.text
    assert process.err.text.count('\n') == 1


# -- jobs and mules -------------------------------------------------------------------------


@pytest.mark.parametrize(
    'value, when',
    [
        ('59 2 -1 -1 -1 /usr/bin/backup --all', '59 2 * * *'),
        ('-5 -1 -1 -1 0 x', '*/5 * * * 0'),
        ('0 -6 -2 -3 7 x', '0 */6 2-31/2 3-12/3 7'),
    ],
)
def test_the_times_of_a_job(value, when):
    assert job_of(value) == (when, value.split(None, 5)[5])
    Schedule(cron_line(when), local_zone())


@pytest.mark.parametrize(
    'value',
    ['', '1 2 3 4 5', '60 0 1 1 0 x', '0 0 0 1 0 x', 'a 0 1 1 0 x', '-99 0 1 1 0 x'],
)
def test_what_is_no_job(value):
    assert job_of(value) is None


JOBS = """
processes = 2
cron = 59 2 -1 -1 -1 /usr/bin/backup --all
unique-cron = -5 -1 -1 -1 -1 rm -rf /tmp/x%%
cron = never
cron2 = minute=1 x
spooler = tasks
mule = shop.mail:send_for_ever
mule = worker.py
mules = 2
"""


def test_jobs_and_mules_become_plugins(tmp_path):
    text = translated(tmp_path, JOBS)
    config = configured(tmp_path, JOBS)
    assert config.settings['site_plugins'] == ['mule1']
    parser = config.loader.parser
    assert (
        dict(parser['plugin:cron1']).items()
        >= {
            'use': 'egg:paste_wspbus#cron',
            'when': '59 2 * * *',
            'run': 'jobs:cron1',
            'overlap': 'allow',
        }.items()
    )
    assert 'overlap' not in parser['plugin:cron2']
    assert parser['plugin:mule1']['run'] == 'shop.mail:send_for_ever'
    said = words_of(text)
    assert 'uWSGI runs: /usr/bin/backup --all [plugin:cron1]' in said
    assert 'add cron1 cron2 to site_plugins' in said
    missing = said.partition('Without a counterpart here:')[2]
    for one in (
        'cron = never:',
        'cron2 = ',
        'spooler = tasks:',
        'mule = worker.py:',
        'mules',
    ):
        assert f' {one}' in missing


def test_what_is_made_of_a_job_and_a_mule_can_be_checked(tmp_path):
    jobs = 'module = shop\ncron = 0 4 -1 -1 -1 x\nmule = shop:send\n'
    shop = 'application = lambda environ, start_response: []\ndef send(): ...\n'
    (tmp_path / 'shop.py').write_text(shop)
    (tmp_path / 'jobs.py').write_text('def cron1(): ...\n')
    ini = translated(tmp_path, jobs).replace('= mule1', '= mule1 cron1')
    told = run(tmp_path, 'site.ini', '--check', files={'site.ini': ini})
    assert told.code == 0, told.report()
    assert 'workers = 1\n' in ini
