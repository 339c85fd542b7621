"""The page /metrics of the ops listener."""

import os
import signal

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.kit import Site, eventually, free_port, ops
from tests.kit.processes import freeze
from tests.kit.sites import APP, SERVED

each_mode = pytest.mark.parametrize('workers', [0, 2], ids=['alone', 'workers'])


@pytest.fixture
def address():
    return '127.0.0.1', free_port()


def served(folder, address, workers, more='', **kwargs):
    ini = (
        f'[wspbus:main]\nworkers = {workers}\nsoak = 0\nops = 127.0.0.1:{address[1]}\n'
    )
    return Site(folder, f'{ini}{more}{SERVED}', files={'webapp.py': APP}, **kwargs)


def metrics(address, **headers):
    """Return {(name, labels): value}."""
    response = ops.get(address, '/metrics', **headers)
    assert response.status == 200
    return {
        (one.name, *sorted(one.labels.items())): one.value
        for family in text_string_to_metric_families(response.body.decode())
        for one in family.samples
    }


GOT = ('wspbus_requests_total', ('method', 'GET'), ('route', '/'), ('status', '2xx'))


@each_mode
def test_the_page_has_what_the_site_has_answered(tmp_path, address, workers):
    with served(tmp_path, address, workers) as site:
        for _ in range(3):
            assert site.get('/?token=planted').status == 200
        found = metrics(address)
        assert found[GOT] == 3
        assert found['wspbus_threads',] == 4 * max(workers, 1)
        assert found['wspbus_generation',] == 1
        memory = [name for name in found if name[0] == 'wspbus_resident_memory_bytes']
        assert len(memory) >= max(workers, 1)
        page = ops.get(address, '/metrics', accept='application/openmetrics-text')
        assert page.body.endswith(b'# EOF\n')
        assert b'planted' not in page.body


def test_a_worker_that_is_stopped_or_killed_is_counted_all_the_same(tmp_path, address):
    with served(tmp_path, address, 1) as site:
        site.get('/')
        pid = ops_pid(site)
        freeze(pid)
        assert metrics(address)[GOT] == 1
        os.kill(pid, signal.SIGKILL)
        site.get('/')
        crash = 'wspbus_restarts_total', ('reason', 'crash')
        eventually(lambda: metrics(address).get(crash) == 1)
        assert metrics(address)[GOT] == 2


def ops_pid(site):
    """Return the process ID of the only worker."""
    return int(site.out.wait_for('Workers in PIDs ') and site.out.text.split()[-1][:-1])


def test_without_the_library_the_site_serves_and_the_page_says_what_is_missing(
    tmp_path, address
):
    (tmp_path / 'sitecustomize.py').write_text(
        'import sys\nsys.modules["prometheus_client"] = None\n'
    )
    env = {**os.environ, 'PYTHONPATH': str(tmp_path)}
    with served(tmp_path, address, 1, env=env) as site:
        assert site.get('/').status == 200
        page = ops.get(address, '/metrics')
        assert page.status == 501
        assert b"pip install 'paste_wspbus[metrics]'" in page.body
