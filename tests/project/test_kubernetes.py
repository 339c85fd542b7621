"""The manifests for Kubernetes: they fit each other, and what the code offers."""

import configparser
import os
import signal

import pytest
import yaml

from paste_wspbus.ops.pages import PAGES
from tests.kit import Site, eventually, free_port, ops, run
from tests.kit.places import SAMPLES

#: The kinds and the versions of their interfaces that Kubernetes 1.25 and later has.
KINDS = {
    'ConfigMap': 'v1',
    'Deployment': 'apps/v1',
    'Service': 'v1',
    'PodDisruptionBudget': 'policy/v1',
}


@pytest.fixture(scope='module')
def manifests():
    """The documents, by their kinds."""
    text = (SAMPLES / 'kubernetes' / 'site.yaml').read_text()
    return {one['kind']: one for one in yaml.safe_load_all(text) if one}


@pytest.fixture(scope='module')
def ini(manifests):
    (text,) = manifests['ConfigMap']['data'].values()
    return text


@pytest.fixture(scope='module')
def settings(ini):
    parser = configparser.RawConfigParser()
    parser.read_string(ini)
    return parser


@pytest.fixture(scope='module')
def pod(manifests):
    return manifests['Deployment']['spec']['template']


@pytest.fixture(scope='module')
def container(pod):
    (container,) = pod['spec']['containers']
    return container


def test_the_kinds_have_their_versions(manifests):
    assert {kind: one['apiVersion'] for kind, one in manifests.items()} == KINDS


def test_all_select_the_pods_of_the_deployment(manifests, pod):
    deployment = manifests['Deployment']['spec']
    labels = pod['metadata']['labels']
    budget = manifests['PodDisruptionBudget']['spec']
    assert deployment['selector']['matchLabels'] == labels
    assert manifests['Service']['spec']['selector'] == labels
    assert budget['selector']['matchLabels'] == labels
    assert 0 < budget['minAvailable'] < deployment['replicas']
    assert deployment['strategy']['rollingUpdate']['maxUnavailable'] == 0


def test_the_ports_are_those_of_the_ini(manifests, settings, pod, container):
    ports = {one['name']: one['containerPort'] for one in container['ports']}
    assert settings['server:main']['host'] == '0.0.0.0'  # not only the loopback
    host, _, port = settings['wspbus:main']['ops'].partition(':')
    assert host == '0.0.0.0'  # the kubelet asks with the address of the pod
    assert ports == {'http': int(settings['server:main']['port']), 'ops': int(port)}
    (service,) = manifests['Service']['spec']['ports']
    assert service['targetPort'] in ports
    notes = pod['metadata']['annotations']
    assert notes['prometheus.io/port'] == port
    assert PAGES[notes['prometheus.io/path']].is_open


def test_the_probes_ask_pages_that_everybody_sees(container):
    probes = {key: one for key, one in container.items() if key.endswith('Probe')}
    assert {key: one['httpGet']['path'] for key, one in probes.items()} == {
        'startupProbe': '/startup',
        'livenessProbe': '/live',
        'readinessProbe': '/ready',
    }
    for probe in probes.values():
        assert PAGES[probe['httpGet']['path']].is_open
        assert probe['httpGet']['port'] == 'ops'


def test_each_time_is_shorter_than_the_one_around_it(settings, pod, container):
    keys = settings['wspbus:main']
    delay, stop, start = (
        float(keys[key]) for key in ('drain_delay', 'stop_timeout', 'start_timeout')
    )
    assert delay < stop < pod['spec']['terminationGracePeriodSeconds']
    ready, startup = container['readinessProbe'], container['startupProbe']
    assert ready['periodSeconds'] * ready['failureThreshold'] < delay
    assert start < startup['periodSeconds'] * startup['failureThreshold']


def test_the_ini_is_mounted_where_the_command_reads_it(manifests, pod, container):
    (name,) = manifests['ConfigMap']['data']
    mounts = {one['name']: one['mountPath'] for one in container['volumeMounts']}
    volumes = {one['name']: one for one in pod['spec']['volumes']}
    assert volumes.keys() == mounts.keys()
    (ini,) = (key for key, one in volumes.items() if 'configMap' in one)
    assert (
        volumes[ini]['configMap']['name'] == manifests['ConfigMap']['metadata']['name']
    )
    assert container['command'] == ['wspserve', f'{mounts[ini]}/{name}']
    assert '/tmp' in mounts.values()  # the root is read-only


def test_the_ini_has_no_mistakes(tmp_path, ini):
    said = run(tmp_path, 'site.ini', '--check', '--compose', files={'site.ini': ini})
    assert said.code == 0 and 'no mistakes found' in said.out.text, said.report()


def test_the_probes_see_the_start_and_the_stop(tmp_path, ini, container):
    """At SIGTERM, the pod is not ready, but serves on."""
    address = '127.0.0.1', free_port()
    words = ['--listen', '127.0.0.1:0', '--ops', f'{address[0]}:{address[1]}']
    with Site(tmp_path, ini, *words) as site:
        for probe in ('startupProbe', 'livenessProbe', 'readinessProbe'):
            path = container[probe]['httpGet']['path']
            assert ops.get(address, path).status == 200
        os.kill(site.pid, signal.SIGTERM)
        ops.becomes(address, '/ready', 503)
        assert ops.get(address, '/live').status == 200
        assert site.get('/').status == 200
        eventually(lambda: ops.told(address, '/ready')[1]['why'] == 'the site stops')
