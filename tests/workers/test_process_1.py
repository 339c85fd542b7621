"""The supervisor as process 1 of a container."""

import os
import signal

import pytest

from tests.kit import BIN, Site, eventually, is_free
from tests.kit.monitored import (
    FILES,
    FIRST_STARTS,
    INI,
    LIFE,
    close_gate,
    first_start,
    messages,
)
from tests.kit.processes import children
from tests.kit.sites import ask
from tests.kit.supervised import crash, imported, said


class Container(Site):
    """A site that is process 1 of a PID namespace; ``pid`` is its number outside."""

    def __init__(self, folder, *args, files=FILES, wait=True, **kwargs):
        unshare = ['unshare', '--pid', '--fork', '--kill-child', '--mount-proc']
        command = [*unshare, BIN / 'wspserve']
        super().__init__(
            folder,
            None,
            'site.ini',
            *args,
            files=files,
            command=command,
            wait=wait,
            **kwargs,
        )

    @property
    def first(self):
        """The number of process 1, outside."""
        (pid,) = children(self.process.pid)
        return pid

    def send(self, signum):
        os.kill(self.first, signum)


each_ending = pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM])


@each_ending
def test_process_1_serves_and_stops(tmp_path, signum):
    with Container(tmp_path) as site:
        told = ask(site)
        assert told['ppid'] == 1
        assert len(os.listdir(f'/proc/{site.first}/task')) == 1
        code, _, err = site.stop(signum)
        assert site.has_left_nothing()
    assert code == 0, site.report()
    assert said(err) == LIFE
    assert is_free(site.port)


@each_ending
def test_process_1_lets_the_request_in_flight_end(tmp_path, signum):
    with Container(tmp_path) as site, site.connect() as client:
        client.send('/wait')
        site.expect('waiting')
        site.send(signum)
        site.expect('stopping')
        site.release()
        assert client.receive().status == 200
        assert site.wait() == 0


def test_process_1_reaps_orphans(tmp_path):
    with Container(tmp_path) as site:
        orphans = [ask(site, '/double_fork')['orphan'] for _ in range(5)]
        for orphan in orphans:  # a zombie would be there
            eventually(
                lambda orphan=orphan: not ask(site, f'/is_there?{orphan}')['is_there']
            )
        assert len(children(site.first)) == 1
        assert site.stop()[0] == 0


@pytest.mark.parametrize('args', [['start'], ['--daemon'], ['restart']])
def test_process_1_cannot_become_a_daemon(tmp_path, args):
    with Container(tmp_path, *args, wait=False) as site:
        assert site.wait() == 2
    (line,) = site.err.text.splitlines()
    assert 'process 1 cannot become a daemon' in line
    assert not (tmp_path / 'life').exists()
    assert not (tmp_path / 'paster.pid').exists()


@pytest.mark.parametrize('page, code', [('/exit3', 3), ('/kill', 137), ('/segv', 139)])
def test_the_childs_exit_code_is_the_containers(tmp_path, page, code):
    with Container(tmp_path) as site:
        crash(site, page)
        assert site.wait() == code
    assert len(imported(tmp_path)) == 1


@pytest.mark.parametrize('case', FIRST_STARTS)
def test_a_container_that_cannot_start_tells_why(tmp_path, case):
    files, code, line = first_start(tmp_path, case)
    with Container(tmp_path, files=files, wait=False) as site:
        assert site.wait() == code
    said = messages(site.err.text)
    assert len(said) == 1, site.report()
    assert line in said[0]


def test_a_stop_with_failures_is_the_containers_exit_code(tmp_path):
    ini = INI.replace('call:webapp:lifespan', 'call:webapp:failing_at_its_end')
    with Container(tmp_path, files={**FILES, 'site.ini': ini}) as site:
        assert site.stop()[0] == 1


def test_a_site_in_a_container_that_exits_ends_it(tmp_path):
    with Container(tmp_path) as site:
        ask(site, '/bus_exit')
        assert site.wait() == 0


def test_a_container_is_stopped_while_it_composes(tmp_path):
    close_gate(tmp_path)
    with Container(tmp_path, wait=False) as site:
        site.expect('composing')
        assert site.stop()[0] == 143
    assert said(site.err.text) == 'composing\ncomposition given up\ncleaned up\n'


def test_process_1_replaces_its_child(tmp_path):
    with Container(tmp_path, '--monitor-restart') as site:
        first = ask(site)['pid']
        crash(site)
        site.wait_until_served(2)
        second = ask(site)['pid']
        site.send(signal.SIGHUP)
        site.wait_until_served(3)
        eventually(lambda: ask(site)['pid'] not in (first, second))
        assert site.stop()[0] == 0
    assert site.err.text.count('crashed') == 1
