"""waitress's own functional tests, from its source distribution, with our adapter as their server."""

import os
import subprocess
import sys
import tarfile
from importlib.metadata import version

import pytest

from tests.kit import TIMEOUT
from tests.kit.places import ROOT

#: Runs them; each test serves its application in a child process that it forks.
DRIVER = """
import os
import socket
import tempfile
import unittest

from tests import test_functional as functional

from paste_wspbus.bus import Bus
from paste_wspbus.servers.waitress import WaitressServer


class Served:
    def __init__(self, app, queue, **settings):
        conf = {key: text_of(value) for key, value in settings.items()}
        server = WaitressServer({**self.where(), **conf}, {})
        self.bus = Bus()
        server.plug_in(self.bus)
        self.bus.subscribe('start', server, app)
        self.bus.start()
        queue.put(server.sockets[0].sock.getsockname())

    def run(self):
        self.bus.block()


class OverTCP(Served):
    family = socket.AF_INET

    def where(self):
        return {'listen': '127.0.0.1:0'}


class OverUnix(Served):
    family = socket.AF_UNIX

    def where(self):
        return {'unix_socket': os.path.join(tempfile.mkdtemp(dir=os.getcwd()), 's')}


def text_of(value):
    return ' '.join(sorted(value)) if isinstance(value, set) else str(value)


functional.TcpTests.server = OverTCP
functional.UnixTests.server = OverUnix
unittest.main(module=functional, argv=['functional', '-v'])
"""


@pytest.fixture(scope='session')
def source(tmp_path_factory):
    """The folder of the source of the waitress that is installed."""
    folder = tmp_path_factory.mktemp('waitress')
    wanted = f'waitress=={version("waitress")}'
    pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
    which = ['--no-binary', 'waitress', '--no-deps', '--dest', folder]
    subprocess.run([*pip, 'download', *which, wanted], check=True, timeout=300)
    (archive,) = folder.glob('waitress-*.tar.gz')
    with tarfile.open(archive) as files:
        files.extractall(folder, filter='data')
    return folder / archive.name.removesuffix('.tar.gz')


@pytest.mark.parametrize('without', ['', 'all'])
def test_the_functional_tests_of_waitress_pass(source, without):
    (source / 'driver.py').write_text(DRIVER)
    env = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join([str(source), str(ROOT)]),
        'WSPBUS_WAITRESS_WITHOUT': without,
    }
    done = subprocess.run(
        [sys.executable, 'driver.py'],
        cwd=source,
        env=env,
        capture_output=True,
        text=True,
        timeout=5 * TIMEOUT,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    assert done.stderr.count(' ... ok') > 100, done.stderr[-5000:]
