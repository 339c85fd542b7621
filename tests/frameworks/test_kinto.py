"""Kinto, a Pyramid application, from the kinto.ini that ``kinto init`` writes."""

import json
import signal

import pytest

from tests.environments import environment
from tests.frameworks.published import Client, run
from tests.kit import Site, eventually, free_port


@pytest.fixture(scope='session')
def programs():
    """The folder of the programs of an environment with Kinto."""
    return environment('kinto') / 'bin'


@pytest.fixture
def project(programs, tmp_path):
    """A folder with the kinto.ini of Kinto's own generator."""
    memory = '--backend', 'memory', '--cache-backend', 'memory'
    where = '--host', '127.0.0.1', '--ini', tmp_path / 'kinto.ini'
    run(tmp_path, programs / 'kinto', 'init', *memory, *where)
    return tmp_path


@pytest.fixture
def unchanged(project):
    """That folder, whose kinto.ini has the same bytes when the test is over."""
    written = (project / 'kinto.ini').read_bytes()
    yield project
    assert (project / 'kinto.ini').read_bytes() == written


def serve(programs, folder, *args, program='wspserve', **kwargs):
    first, *rest = program.split()
    # What `kinto start --port` hands to its .ini.
    words = ['kinto.ini', '--listen', '127.0.0.1:0', *args]
    return Site(folder, None, *words, command=[programs / first, *rest], **kwargs)


ADMIN = {'data': {'password': 'secret'}}
RECORD = '/v1/buckets/shop/collections/books/records/walden'

#: Its passwords are slow to hash: about a quarter of a second each.
SLOW = {
    'defaults': {'method': 'PUT', 'body': ADMIN},
    'requests': [{'path': f'/accounts/reader{n}'} for n in range(6)],
}


def fill(site):
    """Make an account, and with it a record; a client of that account."""
    assert Client(site.port)('PUT', '/v1/accounts/admin', ADMIN).status == 201
    kinto = Client(site.port, auth='admin:secret')
    for path in '/v1/buckets/shop', '/v1/buckets/shop/collections/books':
        assert kinto('PUT', path).status == 201
    assert kinto('PUT', RECORD, {'data': {'title': 'Walden'}}).status == 201
    return kinto


@pytest.mark.parametrize('program', ['wspserve', 'paster wspserve'])
def test_kinto_keeps_a_record_and_answers_its_last_request_before_it_stops(
    programs, unchanged, program
):
    with serve(programs, unchanged, program=program) as site:
        kinto = fill(site)
        assert kinto('GET', RECORD).json['data']['title'] == 'Walden'
        assert Client(site.port)('GET', RECORD).status == 401
        with kinto.sent('POST', '/v1/batch', SLOW) as receive:
            site.expect('/v1/accounts/reader0')
            site.send(signal.SIGTERM)
            site.expect('Bus STOPPING')
            answer = receive()
        assert [one['status'] for one in answer.json['responses']] == [201] * 6
        assert site.wait() == 0, site.report()
    # In the colours of its own [formatter_color], and its loggers tell of requests.
    told = ['\x1b[1mRunning kinto ', 'Bus STARTED', '"PUT   /v1/accounts/admin?"']
    told += ['Bus STOPPING', '"POST  /v1/batch?"', 'Bus STOPPED', 'Bus EXITED']
    places = [site.err.text.index(one) for one in told]
    assert places == sorted(places)


#: And the status of each: Kinto has a version only where somebody wrote version.json.
PATHS = {
    **{'/': 307, '/v1': 307, '/nowhere': 307, '/v1/nowhere': 404},
    **{'/v1/': 200, '/v1/__heartbeat__': 200, '/v1/__version__': 500},
    **{'/v1/__api__': 200, '/v1/admin/': 200, '/v1/buckets': 401, RECORD: 401},
}

#: What it answers is in the order of sets.
SEED = {'PYTHONHASHSEED': '0'}


def test_kinto_answers_as_under_its_own_command(programs, unchanged):
    port = free_port()
    own = [programs / 'kinto', 'start', '--ini', 'kinto.ini', '--port', str(port)]
    with Site(unchanged, None, command=own, wait=False, env=SEED) as site:
        site.expect('Serving on http')
        expected = [Client(port)('GET', path).seen() for path in PATHS]
    with serve(programs, unchanged, env=SEED) as site:
        answers = [Client(site.port)('GET', path).seen() for path in PATHS]
        assert site.stop()[0] == 0
    assert answers == expected
    assert [status for status, *_ in expected] == list(PATHS.values())


def test_the_check_finds_no_mistake_in_what_kinto_writes(programs, unchanged):
    check = programs / 'wspserve', 'kinto.ini', '--check'
    told = run(unchanged, *check, 'http_port=8888')
    assert told == 'kinto.ini: no mistakes found\n'


def test_a_daemon_of_kinto_is_asked_how_it_is_and_stopped(programs, unchanged):
    wspserve = programs / 'wspserve', 'kinto.ini'
    run(unchanged, *wspserve, 'start', 'http_port=0')
    try:
        told = json.loads(run(unchanged, *wspserve, 'status', '--json'))
        assert told['state'] == 'STARTED'
        port = int(told['urls'][0].rpartition(':')[2])
        assert Client(port)('GET', '/v1/').json['project_name'] == 'kinto'
    finally:
        run(unchanged, *wspserve, 'stop')
    log = (unchanged / 'paster.log').read_text()
    assert '\x1b[1mRunning kinto ' in log
    assert '"GET   /v1/?"' in log
    assert 'Bus EXITED' in log
    assert 'is not running' in run(unchanged, *wspserve, 'status', code=3)


def test_an_edit_of_kintos_ini_is_served(programs, project):
    ini = project / 'kinto.ini'
    with serve(programs, project, '--reload') as site:

        def name():
            return Client(site.port)('GET', '/v1/').json['project_name']

        assert name() == 'kinto'
        section = 'use = egg:kinto\n'
        text = ini.read_text()
        assert section in text
        ini.write_text(text.replace(section, section + 'kinto.project_name = shop\n'))
        eventually(lambda: name() == 'shop')
        assert site.stop()[0] == 0, site.report()
