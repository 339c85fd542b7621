"""What an operator sees of two machines and their engine, in each place that shows it."""

import json
import signal

import jsonschema
import pytest

from tests.kit import eventually, ops, run
from tests.kit.places import DOCS
from tests.kit.redis_servers import RedisServer
from tests.kit.supervised import graceful, stop
from tests.workers.test_cluster_plugins import machine

SCHEMA = json.loads((DOCS / 'status.schema.json').read_text())
PARTS = SCHEMA['$defs']


@pytest.fixture
def engine(tmp_path):
    folder = tmp_path / 'engine'
    folder.mkdir()
    with RedisServer(folder) as server:
        yield server


def ask(site, *words, code=0):
    words = 'site.ini', 'status', '--pid-file', 'site.pid', *words
    said = run(site.folder, *words)
    assert said.code == code
    return said.out.text


def cluster_of(site):
    told = json.loads(ask(site, '--cluster', '--json'))
    jsonschema.validate(told, SCHEMA, jsonschema.Draft202012Validator)
    cluster = told['cluster']
    assert cluster.keys() == PARTS['cluster']['properties'].keys()
    for one in cluster['machines'] or ():
        assert one.keys() == PARTS['machine']['properties'].keys()
    return cluster


def test_two_machines_and_an_engine_that_fails(tmp_path, engine, monkeypatch):
    more = ['--ops', 'unix:ops.sock']
    with (
        machine(tmp_path, 'one', engine.url, ttl=3, more=more) as one,
        machine(tmp_path, 'two', engine.url, ttl=3) as two,
    ):
        address = str(one.folder / 'ops.sock')

        def leaders():
            seen = cluster_of(one)['machines'] or []
            return [each['machine'] for each in seen if each['leads'] == ['job']]

        eventually(leaders)
        cluster = cluster_of(one)
        (leader,) = leaders()
        assert (cluster['members'], cluster['leader']) == (2, leader)
        assert cluster['holds'] is (leader == 'one') is not cluster['waits']
        assert cluster['round_trip'] > 0 and cluster['leads_for'] >= 0
        first, second = cluster['machines']
        assert (first['machine'], second['machine']) == ('one', 'two')
        assert (first['state'], first['serving'], first['wanted']) == ('STARTED', 1, 1)
        assert first['generation'] == 1
        graceful(one)
        eventually(lambda: cluster_of(two)['machines'][0]['generation'] == 2)
        waits = one if leader == 'two' else two
        assert (
            f'waits for the lease of the cluster plugins (job): {leader} has it'
            in ask(waits)
        )
        monkeypatch.setenv('RUNTIME_DIRECTORY', str(tmp_path))
        clusters = json.loads(run(tmp_path, 'ps', '--cluster', '--json').out.text)
        # Root also sees the sites of other tests that run at the same time.
        (found,) = [each for each in clusters if each['engine'] == cluster['engine']]
        assert len(found['machines']) == 2
        told = ops.told(address, '/status')[1]['status']
        assert [each['machine'] for each in told['cluster']['machines']] == [
            'one',
            'two',
        ]
        metrics = ops.get(address, '/metrics').body.decode()
        assert '\nwspbus_cluster_members 2.0\n' in metrics
        assert '\nwspbus_cluster_messages_dropped_total 0.0\n' in metrics
        assert f'\nwspbus_cluster_leader {float(leader == "one")}\n' in metrics
        assert '\nwspbus_cluster_round_trip_seconds 0.0' in metrics
        two.send(signal.SIGKILL)
        eventually(lambda: 'two has not reported for ' in ask(one, '--cluster'))
        eventually(lambda: cluster_of(one)['leader'] == 'one')
        assert cluster_of(one)['members'] == 1
        engine.kill()
        eventually(lambda: 'There is no word from redis://' in ask(one, '--cluster'))
        cluster = cluster_of(one)
        assert cluster['machines'] is cluster['leader'] is cluster['members'] is None
        assert 'there is no connection' in cluster['problem']
        assert ops.told(address, '/health')[0] == 503
        assert ops.told(address, '/ready')[0] == 200
        stop(one)
