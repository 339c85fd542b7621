"""Sites of CherryPy itself whose engine is our bus."""

import http.client
import signal
import textwrap

import pytest

from tests.kit import free_port
from tests.kit.cherrypys import SCRIPTS, get, nobody_listens, posix

ENGINES = pytest.mark.parametrize('when', ['before', 'after'])


@pytest.fixture
def app(spawn):
    """Start scripts/app.py; return it and its port once it blocks."""

    def app(when, how='block', port=0):
        child = spawn(SCRIPTS / 'app.py', when, how, SITE_PORT=str(port))
        port = int(child.hear('Serving on').rpartition(':')[2])
        child.hear('blocking')
        return child, port

    return app


@ENGINES
def test_a_cherrypy_site_answers_with_our_bus_as_its_engine(app, when):
    child, port = app(when)
    assert get(port) == (200, 'hello')
    assert get(port, '/pid') == (200, str(child.pid))
    assert get(port, '/state') == (200, 'STARTED')
    assert get(port, '/nothing/here')[0] == 404


@ENGINES
def test_a_cherrypy_site_publishes_before_and_after_each_request(app, when):
    child, port = app(when)
    for path in ('/', '/pid', '/nothing/here'):
        get(port, path)
        child.hear('before_request')
        child.hear('after_request')


@ENGINES
def test_the_code_of_a_cherrypy_site_subscribes_and_publishes(app, when):
    _, port = app(when)
    assert get(port, '/publish?channel=news&word=hi') == (200, '')
    assert get(port, '/listen?channel=news') == (200, 'listening')
    assert get(port, '/publish?channel=news&word=hi') == (200, 'HI')


@ENGINES
def test_a_request_that_calls_engine_exit_ends_the_process_cleanly(app, when):
    child, port = app(when)
    assert get(port, '/exit') == (200, 'leaving')
    assert child.ends() == 0
    said = child.rest()
    assert said.count('Bus EXITED') == 1
    assert 'start_thread 1' in said
    assert said.index('stop_thread 1') < said.index('Bus STOPPED')
    assert said[-1] == 'block returned'
    assert nobody_listens(port)


@ENGINES
def test_a_request_that_calls_engine_graceful_leaves_the_site_up(app, when):
    child, port = app(when)
    assert get(port, '/graceful') == (200, 'told')
    child.hear('graceful was heard')
    assert get(port) == (200, 'hello')


@posix
@ENGINES
def test_a_request_that_calls_engine_restart_brings_the_same_process_up_again(
    app, when
):
    child, port = app(when, port=free_port())
    for _ in range(2):
        assert get(port, '/restart') == (200, 'coming back')
        child.hear('Re-spawning')
        assert int(child.hear('Serving on').rpartition(':')[2]) == port
        child.hear('blocking')
        assert get(port, '/pid') == (200, str(child.pid))
    child.send(signal.SIGTERM)
    assert child.ends() == 0


@posix
@ENGINES
@pytest.mark.parametrize('how', ['block', 'quickstart'])
@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM', 'SIGHUP'])
def test_a_signal_ends_a_cherrypy_site_cleanly(app, when, how, name):
    child, port = app(when, how)
    assert get(port) == (200, 'hello')
    child.send(getattr(signal, name))
    assert child.ends() == 0
    assert child.rest().count('Bus EXITED') == 1
    assert 'stop_thread 1' in child.said
    assert nobody_listens(port)


@ENGINES
def test_a_keyboard_interrupt_in_a_request_ends_a_cherrypy_site(app, when):
    child, port = app(when)
    with pytest.raises((http.client.HTTPException, OSError)):
        get(port, '/interrupt')
    assert child.ends() == 0
    assert '<Ctrl-C> hit: shutting down HTTP server' in child.rest()
    assert 'Bus EXITED' in child.said


@posix
def test_sigusr1_is_graceful_for_a_cherrypy_site(app):
    child, port = app('before')
    assert get(port) == (200, 'hello')
    child.hear('start_thread 1')
    child.send(signal.SIGUSR1)
    child.hear('Bus graceful')
    child.hear('stop_thread 1')
    assert get(port) == (200, 'hello')


def test_a_cherrypy_site_that_forgets_to_block_is_stopped(spawn):
    child = spawn(SCRIPTS / 'app.py', 'before', 'start')
    assert child.ends() == 0
    assert 'Bus EXITED' in child.rest()
    assert nobody_listens(
        int(next(x for x in child.said if x.startswith('port')).split()[1])
    )


def test_cherryd_fails_with_one_and_without_a_pid_file_if_the_site_cannot_start(
    spawn, tmp_path
):
    (tmp_path / 'cherryd.py').write_text(
        textwrap.dedent("""\
            from riding import replace_wspbus, talking_bus
            bus = talking_bus()
            replace_wspbus(bus)
            bus.subscribe('start', lambda: 1 / 0, priority=90)
            import cherrypy.daemon
            cherrypy.config.update({'log.screen': False, 'server.socket_port': 0})
            cherrypy.daemon.start(pidfile='site.pid')
        """)
    )
    child = spawn('cherryd.py')
    assert child.ends() == 1
    said = child.rest()
    assert any(line.startswith('PID ') and ' written to ' in line for line in said)
    assert any('ZeroDivisionError' in line for line in said)
    assert not (tmp_path / 'site.pid').exists()
