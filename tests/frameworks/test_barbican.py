"""Barbican, OpenStack's keeper of secrets, from the barbican-api-paste.ini in its wheel."""

import base64
import contextlib
import getpass
import grp
import json
import os
import signal
import sqlite3

import pytest

from tests.environments import environment
from tests.frameworks.published import Client, Load, locked, run, warnings_of_the_bus
from tests.kit import Site, eventually, write


@pytest.fixture(scope='session')
def programs():
    """The folder of the programs of an environment with Barbican and Keystone."""
    return environment('openstack') / 'bin'


# -- Keystone, whom it asks who somebody is --------------------------------------------

KEYSTONE = """
[database]
connection = sqlite:///keystone.sqlite

[fernet_tokens]
key_repository = keys

[fernet_receipts]
key_repository = keys
"""

#: It reads sys.argv, and so cannot be named to waitress-serve.
SERVE_KEYSTONE = """
import waitress
from keystone.wsgi.api import application

server = waitress.create_server(application, listen='127.0.0.1:0')
print(f'Serving on http://127.0.0.1:{server.effective_port}', flush=True)
server.run()
"""


@pytest.fixture(scope='module')
def keystone(programs, tmp_path_factory):
    """The port of a Keystone in which admin's password is 'secret'."""
    folder = tmp_path_factory.mktemp('keystone')
    write(folder, {'keystone.conf': KEYSTONE})
    (folder / 'keys').mkdir(0o700)
    manage = programs / 'keystone-manage', '--config-file', 'keystone.conf'
    group = grp.getgrgid(os.getgid()).gr_name
    owner = '--keystone-user', getpass.getuser(), '--keystone-group', group
    run(folder, *manage, 'db_sync')
    run(folder, *manage, 'fernet_setup', *owner)
    command = [programs / 'python', '-W', 'ignore', '-c', SERVE_KEYSTONE]
    env = {'OS_KEYSTONE_CONFIG_FILES': str(folder / 'keystone.conf')}
    with Site(folder, None, command=command, env=env) as site:
        words = [*manage, 'bootstrap', '--bootstrap-password', 'secret']
        for who in 'admin', 'internal', 'public':
            words += [f'--bootstrap-{who}-url', f'{site.url}/v3']
        run(folder, *words)
        yield site.port


LOGIN = {
    'auth': {
        'identity': {
            'methods': ['password'],
            'password': {
                'user': {
                    'name': 'admin',
                    'domain': {'id': 'default'},
                    'password': 'secret',
                }
            },
        },
        'scope': {'project': {'name': 'admin', 'domain': {'id': 'default'}}},
    }
}


@pytest.fixture(scope='module')
def token(keystone):
    answer = Client(keystone)('POST', '/v3/auth/tokens', LOGIN)
    assert answer.status == 201, answer.text
    return answer.headers['x-subject-token']


# -- Barbican -----------------------------------------------------------------------------

#: It waits for its database for a minute.
CONF = """
[database]
connection = sqlite:///%(folder)s/barbican.sqlite?timeout=60

[simple_crypto_plugin]
kek = %(key)s

[keystone_authtoken]
www_authenticate_uri = http://127.0.0.1:%(keystone)s
auth_url = http://127.0.0.1:%(keystone)s
auth_type = password
username = admin
password = secret
project_name = admin
user_domain_id = default
project_domain_id = default
"""


@pytest.fixture
def ini(programs):
    """The file where pip put it; the same bytes after the test."""
    path = programs.parent / 'etc' / 'barbican' / 'barbican-api-paste.ini'
    installed = path.read_bytes()
    assert b'[server:main]' not in installed
    yield path
    assert path.read_bytes() == installed


@pytest.fixture
def home(programs, keystone, tmp_path):
    """A home with Barbican's barbican.conf, and an empty database."""
    key = base64.urlsafe_b64encode(b'k' * 32).decode()
    conf = CONF % {'folder': tmp_path, 'key': key, 'keystone': keystone}
    write(tmp_path, {'.barbican/barbican.conf': conf})
    env = {**os.environ, 'HOME': str(tmp_path)}
    run(tmp_path, programs / 'barbican-manage', 'db', 'upgrade', env=env)
    return tmp_path


def serve(programs, home, ini, *args):
    words = [ini, '--listen', '127.0.0.1:0', '--pid-file', 'site.pid', *args]
    command = [programs / 'wspserve']
    return Site(home, None, *words, command=command, env={'HOME': str(home)})


def ask(programs, home, ini, *args):
    """What a subcommand says."""
    return run(home, programs / 'wspserve', ini, *args, '--pid-file', 'site.pid')


SECRET = {'name': 'one', 'payload': 'hush', 'payload_content_type': 'text/plain'}


def payload(client, kept):
    """What is in a secret, from the answer that told where it was put."""
    path = kept.json['secret_ref'].partition(str(client.port))[2]
    return client('GET', f'{path}/payload', Accept='text/plain').text


def count(home):
    with contextlib.closing(sqlite3.connect(home / 'barbican.sqlite')) as database:
        return database.execute('SELECT COUNT(*) FROM secrets').fetchone()[0]


def test_a_secret_that_waits_for_the_database_is_kept_before_barbican_stops(
    programs, home, ini, token
):
    with serve(programs, home, ini) as site:
        assert Client(site.port)('GET', '/v1/secrets').status == 401
        barbican = Client(site.port, **{'X-Auth-Token': token})
        kept = barbican('POST', '/v1/secrets', SECRET)
        assert kept.status == 201, site.report()
        assert payload(barbican, kept) == 'hush'
        with (
            locked(home / 'barbican.sqlite') as unlock,
            barbican.sent('POST', '/v1/secrets', SECRET) as receive,
        ):
            eventually(lambda: '/v1/secrets' in ask(programs, home, ini, 'status'))
            site.send(signal.SIGTERM)
            assert site.out.wait_for('Bus STOPPING'), site.report()
            unlock()
            assert receive().status == 201
        assert site.wait() == 0, site.report()
    assert count(home) == 2
    assert not list(home.glob('barbican.sqlite-*'))
    assert warnings_of_the_bus(site.out.text) == []
    # In oslo.log's format, where it writes: its .ini has no [loggers].
    assert '"wspbus" is not known' not in site.out.text  # keystonemiddleware's
    told = ['INFO barbican.api.app ', 'Bus STARTED', 'Processed request: 201']
    told += [
        'INFO paste_wspbus [',
        'Bus STOPPING',
        'Processed request: 201',
        'Bus STOPPED',
        'Bus EXITED',
    ]
    text = site.out.text
    for one in told:
        _, found, text = text.partition(one)
        assert found, (one, site.report())


def test_workers_of_barbican_are_renewed_and_no_request_is_lost(
    programs, home, ini, token
):
    with serve(programs, home, ini, '--workers', '2') as site:
        barbican = Client(site.port, **{'X-Auth-Token': token})
        kept = barbican('POST', '/v1/secrets', SECRET)
        assert kept.status == 201, site.report()
        # Its first two requests at once for secrets may find a half-made policy.
        with Load(barbican, '/v1') as load:
            load.more()
            ask(programs, home, ini, 'graceful')
            load.more()
        assert set(load.outcomes) == {200}, site.report()
        told = json.loads(ask(programs, home, ini, 'status', '--json'))
        assert [one['generation'] for one in told['workers']] == [2, 2]
        assert payload(barbican, kept) == 'hush'
        assert site.stop()[0] == 0, site.report()


#: What its get_api_wsgi_script() hands to uWSGI or mod_wsgi.
OWN = """
import sys

import waitress
from paste.deploy import loadapp

server = waitress.create_server(loadapp('config:' + sys.argv[1]), listen='127.0.0.1:0')
print(f'Serving on http://127.0.0.1:{server.effective_port}', flush=True)
server.run()
"""

#: And the status of each, for who has a token and for who has none.
PATHS = {
    **{'/': (300, 300), '/healthcheck': (200, 200), '/nowhere': (404, 404)},
    **{'/v1': (200, 401), '/v1/secrets': (200, 401), '/v1/nowhere': (404, 401)},
}


def answers(site, token):
    clients = Client(site.port, **{'X-Auth-Token': token}), Client(site.port)
    return {path: [one('GET', path).seen() for one in clients] for path in PATHS}


def test_barbican_answers_as_under_plain_pastedeploy(programs, home, ini, token):
    own = [programs / 'python', '-W', 'ignore', '-c', OWN, ini]
    with Site(home, None, command=own, env={'HOME': str(home)}) as site:
        expected = answers(site, token)
    with serve(programs, home, ini) as site:
        assert answers(site, token) == expected
        assert site.stop()[0] == 0
    found = {path: (one[0], other[0]) for path, (one, other) in expected.items()}
    assert found == PATHS


def test_the_check_only_asks_where_to_listen(programs, ini, tmp_path):
    told = run(tmp_path, programs / 'wspserve', ini, '--check')
    where = (
        'there is no section [server:main]; add one, or start the site with '
        '--listen HOST:PORT'
    )
    lines = [line for line in told.splitlines() if line.startswith(str(ini))]
    assert lines == [f'{ini}: warning: {where}', f'{ini}: can be served']
