"""sample_ini/docker: the steps of its Dockerfile are run, and its files fit together."""

import json
import re
import shutil
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.kit.clients import free_port
from tests.kit.containers import Container, Image
from tests.kit.places import SAMPLES
from tests.kit.redis_servers import RedisServer

SAMPLE = SAMPLES / 'docker'


@pytest.fixture
def image(tmp_path):
    """The image of the sample, at a free port."""
    shutil.copytree(SAMPLE, tmp_path / 'context')
    ini = tmp_path / 'context/site.ini'
    ini.write_text(ini.read_text().replace('port = 8080', f'port = {free_port()}'))
    (tmp_path / 'image').mkdir()
    return Image(tmp_path / 'context', tmp_path / 'image')


def test_the_container_serves_is_healthy_and_stops(image, tmp_path):
    with (
        RedisServer(tmp_path) as redis,
        Container(image, tmp_path / 'root', {'REDIS_URL': redis.url}) as container,
    ):
        assert container.out.wait_for('Workers in PIDs'), container.report()
        port = int(re.search(r':(\d+)', container.out.text)[1])
        with urllib.request.urlopen(f'http://127.0.0.1:{port}/', timeout=60) as page:
            assert page.read() == b'Visit number 2, bus STARTED\n'  # 1 was smoke
        healthy = container.exec(image.health)
        assert healthy.returncode == 0, healthy.stdout + healthy.stderr
        assert healthy.stdout.startswith('The site is running (process 1)')
        status = Path(f'/proc/{container.first}/status').read_text()
        assert re.search(r'^NSpid:\t\d+\t1$', status, re.M)
        assert re.search(r'^Uid:\t10001\t', status, re.M)
        assert re.search(r'^CapEff:\t0+$', status, re.M)
        assert container.exec(['touch', 'new']).returncode != 0
        assert container.stop() == 0, container.report()
    assert 'Stopping: SIGTERM' in container.err.text


def test_the_health_check_fails_while_the_site_does_not_run(image, tmp_path):
    image.said['CMD'] = json.dumps(['sh', '-c', 'echo sleeping; exec sleep 600'])
    with Container(image, tmp_path / 'root') as container:
        assert container.out.wait_for('sleeping'), container.report()
        assert container.exec(image.health).returncode == 3


def test_the_compose_file_fits_the_image():
    compose = yaml.safe_load((SAMPLE / 'compose.yaml').read_text())
    site, nginx = compose['services']['site'], compose['services']['nginx']
    assert site['read_only'] and site['tmpfs'] == ['/tmp']
    ini = (SAMPLE / 'site.ini').read_text()
    (stop,) = re.findall(r'stop_timeout = (\d+)', ini)
    assert int(site['stop_grace_period'].removesuffix('s')) >= int(stop) + 5
    (port,) = re.findall(r'^port = (\d+)$', ini, re.M)
    dockerfile = (SAMPLE / 'Dockerfile').read_text()
    assert f'EXPOSE {port}' in dockerfile
    (file,) = (one.split(':')[0] for one in nginx['volumes'])
    conf = (SAMPLE / file).read_text()
    assert f'server site:{port};' in conf
    assert conf.count('{') == conf.count('}')
    for url in re.findall(r'redis://\S+', dockerfile + str(site['environment'])):
        assert re.match(r'redis://(\w+):', url)[1] in compose['services']


def test_each_file_of_the_sample_is_used():
    told = ''.join(
        (SAMPLE / name).read_text() for name in ('Dockerfile', 'compose.yaml')
    )
    for path in SAMPLE.iterdir():
        if path.is_file() and path.name not in ('Dockerfile', 'compose.yaml'):
            assert path.name in told
