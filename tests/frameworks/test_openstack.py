"""Services of OpenStack that make their application by a function of their own: the samples."""

import shutil

import pytest

from tests.environments import environment
from tests.frameworks.published import Client, run
from tests.kit import Site, write
from tests.kit.places import SAMPLES


@pytest.fixture(scope='session')
def programs():
    """The folder of the programs of an environment with Glance and Swift."""
    return environment('openstack') / 'bin'


def serve(programs, folder, ini):
    """Serve a copy of a sample, with one worker: each of them loads for seconds."""
    words = ini, '--listen', '127.0.0.1:0', '--workers', '1'
    return Site(folder, None, *words, command=[programs / 'wspserve'])


def restart(programs, site, ini):
    told = run(site.folder, programs / 'wspserve', ini, 'graceful')
    assert 'Generation 2 serves' in told


# -- Glance -------------------------------------------------------------------------------

GLANCE = """
[DEFAULT]
worker_self_reference_url = http://127.0.0.1
enabled_import_methods = []
[database]
connection = sqlite:///{folder}/glance.sqlite
[glance_store]
stores = file
default_store = file
filesystem_store_datadir = {folder}/images
[paste_deploy]
config_file = {folder}/glance-api-paste.ini
"""


def test_glance_is_served_with_workers_and_renewed(programs, tmp_path):
    ini = (SAMPLES / 'glance' / 'glance.ini').read_text()
    where = '# Another folder: env.OS_GLANCE_CONFIG_DIR = %(here)s/glance'
    assert where in ini
    ini = ini.replace(where, 'env.OS_GLANCE_CONFIG_DIR = %(here)s')
    write(
        tmp_path,
        {'glance.ini': ini, 'glance-api.conf': GLANCE.format(folder=tmp_path)},
    )
    (tmp_path / 'images').mkdir()
    shutil.copy(programs.parent / 'etc/glance/glance-api-paste.ini', tmp_path)
    manage = programs / 'glance-manage', '--config-file', 'glance-api.conf'
    run(tmp_path, *manage, 'db_sync')
    with serve(programs, tmp_path, 'glance.ini') as site:
        versions = Client(site.port)('GET', '/versions')
        assert versions.status == 200
        assert 'v2.9' in [one['id'] for one in versions.json['versions']]
        restart(programs, site, 'glance.ini')
        assert Client(site.port)('GET', '/versions').status == 200
        assert site.stop()[0] == 0


# -- Swift --------------------------------------------------------------------------------

SWIFT = {
    'swift.conf': '[swift-hash]\nswift_hash_path_suffix = tests\n',
    'proxy-server.conf': """
[DEFAULT]
swift_dir = {folder}
[pipeline:main]
pipeline = catch_errors healthcheck proxy-server
[app:proxy-server]
use = egg:swift#proxy
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:healthcheck]
use = egg:swift#healthcheck
""",
}

DEVICE = 'r1z1-127.0.0.1:6200/sda'


def test_the_proxy_of_swift_is_served_with_workers_and_renewed(programs, tmp_path):
    shutil.copytree(SAMPLES / 'swift', tmp_path, dirs_exist_ok=True)
    write(tmp_path, {k: v.format(folder=tmp_path) for k, v in SWIFT.items()})
    ini = (tmp_path / 'swift.ini').read_text()
    assert '\nconf = /etc/swift/' in ini
    write(tmp_path, {'swift.ini': ini.replace('/etc/swift', '%(here)s')})
    builder = programs / 'swift-ring-builder'
    for ring in 'account', 'container', 'object':
        for words in ['create', '4', '1', '1'], ['add', DEVICE, '1'], ['rebalance']:
            run(tmp_path, builder, f'{ring}.builder', *words)
    with serve(programs, tmp_path, 'swift.ini') as site:
        get = Client(site.port)
        assert get('GET', '/healthcheck').text == 'OK'
        assert 'account_autocreate' in get('GET', '/info').json['swift']
        restart(programs, site, 'swift.ini')
        assert get('GET', '/healthcheck').text == 'OK'
        assert site.stop()[0] == 0
