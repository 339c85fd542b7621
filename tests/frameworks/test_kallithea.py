"""Kallithea, a TurboGears application, from the .ini of ``kallithea-cli config-create``."""

import contextlib
import re
import signal
import sqlite3

import pytest

from tests.environments import environment
from tests.frameworks.published import Client, locked, run, warnings_of_the_bus
from tests.kit import Site, eventually, free_port


@pytest.fixture(scope='session')
def programs():
    """The folder of the programs of an environment with Kallithea."""
    return environment('kallithea') / 'bin'


@pytest.fixture
def generated(programs, tmp_path):
    """A folder with the kallithea.ini of its generator; the same bytes after the test."""
    run(tmp_path, programs / 'kallithea-cli', 'config-create', 'kallithea.ini')
    written = (tmp_path / 'kallithea.ini').read_bytes()
    yield tmp_path
    assert (tmp_path / 'kallithea.ini').read_bytes() == written


@pytest.fixture
def project(programs, generated):
    """The same, with a database and a folder for repositories."""
    (generated / 'repositories').mkdir()
    answers = {
        '--user': 'admin',
        '--password': 'secret12',
        '--email': 'admin@example.com',
        '--repos': generated / 'repositories',
    }
    create = programs / 'kallithea-cli', 'db-create', '-c', 'kallithea.ini'
    words = [word for pair in answers.items() for word in pair]
    run(generated, *create, '--force-yes', *words)
    return generated


def serve(programs, project, *args):
    where = '--listen', '127.0.0.1:0', '--pid-file', 'pid'
    words = 'kallithea.ini', *where, *args
    return Site(project, None, *words, command=[programs / 'wspserve'])


def call(project, method, **args):
    """The body of a call of its JSON-RPC interface, as admin."""
    with contextlib.closing(sqlite3.connect(project / 'kallithea.db')) as database:
        query = "SELECT api_key FROM users WHERE username = 'admin'"
        [key] = database.execute(query).fetchone()
    return {'id': 1, 'api_key': key, 'method': method, 'args': args}


def test_a_question_that_waits_for_the_database_is_answered_before_kallithea_stops(
    programs, project
):
    with serve(programs, project) as site:
        kallithea = Client(site.port)
        new = call(project, 'create_repo', repo_name='shop', repo_type='hg')
        assert kallithea('POST', '/_admin/api', new).json['error'] is None
        assert (project / 'repositories' / 'shop' / '.hg').is_dir()
        question = call(project, 'get_repos')
        status = programs / 'wspserve', 'kallithea.ini', 'status', '--pid-file', 'pid'
        with (
            locked(project / 'kallithea.db') as unlock,
            kallithea.sent('POST', '/_admin/api', question) as receive,
        ):
            eventually(lambda: 'POST /_admin/api' in run(project, *status))
            site.send(signal.SIGTERM)
            site.expect('Bus STOPPING')
            unlock()
            [shop] = receive().json['result']
        assert shop['repo_name'] == 'shop'
        assert site.wait() == 0, site.report()
    # In the format of its own [formatter_generic], by its own logger.
    assert re.search(r'^[\d-]+ [\d:.]+ INFO  \[alembic\.', site.err.text, re.M)
    assert warnings_of_the_bus(site.err.text) == []


#: And the status of each.
PATHS = {
    **{'/': 200, '/_admin/login': 200, '/_admin/public_journal': 200},
    **{'/_admin/settings': 302, '/_admin/api': 200, '/shop': 404, '/nowhere': 404},
}


def answers(site):
    """Without the tokens against forgery, and without the process that answered."""
    found = {path: Client(site.port)('GET', path).seen() for path in PATHS}
    return {
        path: (*rest, re.sub(r'\d{30,}|(?<=Server instance: )\S+', '', text))
        for path, (*rest, text) in found.items()
    }


def test_kallithea_answers_as_under_gearbox(programs, project):
    # gearbox can be told its port by the file only.
    port = free_port()
    ini = (project / 'kallithea.ini').read_text()
    assert 'port = 5000\n' in ini
    (project / 'own.ini').write_text(ini.replace('port = 5000\n', f'port = {port}\n'))
    gearbox = [programs / 'gearbox', 'serve', '-c', 'own.ini']
    with Site(project, None, command=gearbox, wait=False) as site:
        site.expect(f'Serving on http://127.0.0.1:{port}')
        site.url = f'http://127.0.0.1:{port}'
        expected = answers(site)
    with serve(programs, project) as site:
        assert answers(site) == expected
        assert site.stop()[0] == 0, site.report()
    assert {path: status for path, (status, *_) in expected.items()} == PATHS


def test_the_check_finds_no_mistake_in_what_kallithea_writes(programs, generated):
    told = run(generated, programs / 'wspserve', 'kallithea.ini', '--check')
    assert told == 'kallithea.ini: no mistakes found\n'
