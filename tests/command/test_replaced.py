"""A site that makes every default itself: sample_ini/replaced.ini."""

import os
import shutil
import signal

import pytest

from tests.kit import Process, run
from tests.kit.places import SAMPLES
from tests.kit.processes import BIN, eventually


@pytest.fixture
def folder(tmp_path):
    for name in ('replaced.ini', 'replaced.py'):
        shutil.copy(SAMPLES / name, tmp_path)
    return tmp_path


def test_check_finds_nothing_wrong(folder):
    process = run(folder, '--check', 'replaced.ini')
    assert process.out.text == 'replaced.ini: no mistakes found\n', process.report()


def test_a_daemon_with_all_of_them(folder):
    words = ['replaced.ini', '--listen', '127.0.0.1:0', 'name=shop']
    started = run(folder, *words, 'start')
    try:
        assert started.code == 0, started.report()
        assert started.out.text.startswith('This site becomes a daemon.\n')
        pid, name = (folder / 'paster.pid').read_text().split()
        assert name == 'shop'
        log = folder / 'paster.log'
        os.kill(int(pid), signal.SIGUSR2)
        eventually(lambda: 'INFO: Hello' in log.read_text())
        os.kill(int(pid), signal.SIGHUP)  # the process replaces itself
        eventually(lambda: log.read_text().count('INFO: Bus STARTED') == 2)
        assert 'INFO: This process replaces itself' in log.read_text()
        assert (folder / 'paster.pid').read_text().split() == [pid, 'shop']
    finally:
        stopped = run(folder, *words, 'stop')
    assert stopped.code == 0, stopped.report()
    assert not (folder / 'paster.pid').exists()


def test_a_process_that_reloads_itself_does_it_by_another_plugin(folder):
    words = [BIN / 'wspserve', 'replaced.ini', '--listen', '127.0.0.1:0', 'name=shop']
    reloads = ['--reload', '--reloader', 'execv']
    with Process([*words, *reloads], folder) as process:
        assert process.out.wait_for('Serving on '), process.report()
        with open(folder / 'replaced.ini', 'a') as ini:
            ini.write('# saved\n')
        process.expect('INFO: This process replaces itself')
        process.expect('INFO: Thread 1 answers', 2)
        process.send(signal.SIGTERM)
        assert process.wait() == 0, process.report()


def test_systemd_is_told_by_another_plugin(folder, manager):
    with Process(
        [BIN / 'wspserve', 'replaced.ini', '--listen', '127.0.0.1:0'],
        folder,
        env={'NOTIFY_SOCKET': manager.address},
    ) as process:
        manager.until(READY='1')
        process.send(signal.SIGTERM)
        manager.until(STOPPING='1')
        assert process.wait() == 0, process.report()


def test_workers_make_their_own(folder):
    words = [BIN / 'wspserve', 'replaced.ini', '--listen', '127.0.0.1:0']
    with Process([*words, '--workers', '1', 'name=shop'], folder) as process:
        assert process.out.wait_for('Serving on '), process.report()
        process.expect('INFO: Bus STARTED')
        ini = (folder / 'replaced.ini').read_text()
        ini = ini.replace('privileges = ', '#privileges = ')
        (folder / 'replaced.ini').write_text(ini)
        process.send(signal.SIGHUP)
        process.expect('privileges in [wspbus:main] has changed, which takes a restart')
        process.expect('INFO: Bus STARTED', 2)
        process.send(signal.SIGTERM)
        assert process.wait() == 0, process.report()


NOTHING = """
class Nothing:
    def __init__(self, bus, global_conf):
        pass
    def subscribe(self):
        pass
class Fails(Nothing):
    def subscribe(self):
        raise LookupError('out of order')
"""

INI = """
[app:main]
use = egg:paste_wspbus#hello
[server:main]
use = egg:waitress
listen = 127.0.0.1:0
[wspbus:main]
"""


@pytest.mark.parametrize('key', ['signals', 'restarter', 'threads', 'autoreload'])
def test_a_plugin_that_fails_to_subscribe_is_one_line(tmp_path, key):
    (tmp_path / 'ours.py').write_text(NOTHING)
    (tmp_path / 'site.ini').write_text(f'{INI}{key} = call:ours:Fails\n')
    words = ['--reload', '--reloader', 'execv'] if key == 'autoreload' else []
    with Process([BIN / 'wspserve', 'site.ini', *words], tmp_path) as process:
        line = f'{key}: it failed: LookupError: out of order, at ours.py:9'
        process.expect(line)
        if key != 'autoreload':  # with --reload, it waits for the next change
            assert process.wait() == 1
            assert len(process.err.text.splitlines()) == 1, process.report()


def test_a_signal_that_another_plugin_does_not_take_is_left_to_python(tmp_path):
    (tmp_path / 'ours.py').write_text(NOTHING)
    (tmp_path / 'site.ini').write_text(f'{INI}signals = call:ours:Nothing\n')
    with Process([BIN / 'wspserve', 'site.ini'], tmp_path) as process:
        assert process.out.wait_for('Serving on '), process.report()
        process.send(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM, process.report()
