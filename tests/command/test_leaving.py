"""The end of a site's process: its threads, its atexit handlers, and what does not end."""

import re
import signal

import pytest

from tests.kit import Site, eventually, run
from tests.kit.daemons import Ground

WEBAPP = """
import asyncio
import atexit
import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

from paste_wspbus.bus import Bus

pool = ThreadPoolExecutor(2)
going = threading.Event()


def say(text):
    os.write(2, f'{text}\\n'.encode())


def hang_in_here():
    threading.Event().wait()


def idle_pool(bus):
    pool.submit(os.getpid).result()


def idle_processes(bus):
    bus.processes = ProcessPoolExecutor(1, multiprocessing.get_context('fork'))
    bus.processes.submit(os.getpid).result()


def multiprocessing_pool(bus):
    bus.processes = multiprocessing.get_context('fork').Pool(1)
    bus.processes.apply(os.getpid)


def feeder(bus):
    bus.queue = multiprocessing.get_context('fork').Queue()
    bus.queue.put('a')
    bus.queue.get()


def registered(bus):
    done = threading.Event()
    threading._register_atexit(done.set)
    threading.Thread(target=done.wait).start()


def main_is_alive(bus):
    def wait():
        while threading.main_thread().is_alive():
            time.sleep(0.01)
    threading.Thread(target=wait).start()


def main_joined(bus):
    threading.Thread(target=threading.main_thread().join).start()


def executor_of_a_loop(bus):
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def work():
        await loop.run_in_executor(None, os.getpid)
    asyncio.run_coroutine_threadsafe(work(), loop).result()


def works(bus):
    bus.subscribe('exit', lambda: pool.submit(work))


def work():
    time.sleep(0.3)
    say('job done')


def nothing(bus):
    pass


def never_ends(bus):
    threading.Thread(target=hang_in_here, name='everlasting').start()


def job_never_ends(bus):
    pool.submit(hang_in_here)


def handler_hangs(bus):
    atexit.register(hang_in_here)


def handlers_fail(bus):
    atexit.register(sys.exit, 7)
    atexit.register(int, 'no number')


def stop_hangs(bus):
    bus.subscribe('stop', hang_in_here)


def start_fails(bus):
    stop_hangs(bus)

    @bus.subscribe('start')
    def fail():
        raise ValueError('out of order')


def stop_holds_the_gil(bus):
    bus.subscribe('stop', lambda: say(str((1 << 40_000_000) ** 60 > 0)))


def stop_backtracks(bus):
    import re
    bus.subscribe('stop', lambda: re.match('(a*)*b', 'a' * 40))


def forks(bus, leave):
    pid = os.getpid()

    @bus.subscribe('stop', priority=10)
    def fork():
        if not os.fork():
            return leave()
        os.wait()
        say(f'PID file: {os.path.exists("paster.pid")}')

    @bus.subscribe('stop')
    def close():
        say(f'closed by {"parent" if os.getpid() == pid else "child"}')


def fork_exits(bus):
    forks(bus, sys.exit)


def fork_fails(bus):
    forks(bus, lambda: int('no number'))


def fork_returns(bus):
    forks(bus, bool)


def plugin(bus, global_conf, how, joins='60'):
    bus.join_timeout = float(joins)
    atexit.register(say, 'handler ran')
    globals()[how](bus)


def make(global_conf):
    def app(environ, start_response):
        if environ['PATH_INFO'] == '/hang':
            say('hanging')
            hang_in_here()
        body = str(pool.submit(os.getpid).result()).encode()
        start_response('200 OK', [('Content-Length', str(len(body)))])
        return [body]
    return app


def make_fails(global_conf):
    Bus.join_timeout = 0.1
    never_ends(None)
    raise ValueError('out of order')
"""

INI = """
[app:main]
use = call:webapp:make

[wspbus:main]
plugins = ends
{settings}

[plugin:ends]
use = call:webapp:plugin
how = {how}
joins = {joins}

[server:main]
{server}
"""

TCP = 'host = 127.0.0.1\nport = 0\n'
SERVERS = {
    'waitress': 'use = egg:waitress\nthreads = 8\n',
    'cheroot': 'use = egg:paste_wspbus#cheroot\n',
    'paste': 'use = egg:Paste#http\n',
    'wsgiref': 'use = egg:paste_wspbus#wsgiref\n',
}


def served(folder, how, *args, server='waitress', joins=60, settings='', **kwargs):
    ini = INI.format(
        how=how, joins=joins, settings=settings, server=SERVERS[server] + TCP
    )
    return Site(folder, ini, *args, files={'webapp.py': WEBAPP}, **kwargs)


each_mode = pytest.mark.parametrize(
    'args',
    [[], ['--workers', '1'], ['--reload'], ['--reload', '--reloader=execv']],
    ids=' '.join,
)

WAIT_FOR_PYTHONS_END = [
    'idle_pool',
    'idle_processes',
    'multiprocessing_pool',
    'feeder',
    'registered',
    'main_is_alive',
    'main_joined',
    'executor_of_a_loop',
]


# -- threads that wait for Python's own end ---------------------------------------------


@pytest.mark.parametrize('how', WAIT_FOR_PYTHONS_END)
def test_what_waits_for_pythons_own_end_does_not_hold_the_stop(tmp_path, how):
    with served(tmp_path, how) as site:
        code, _, err = site.stop()
    assert code == 0, site.report()
    assert err.count('handler ran') == 1
    assert 'did not end' not in err


@each_mode
def test_an_idle_pool_does_not_hold_the_stop_in_any_mode(tmp_path, args):
    with served(tmp_path, 'idle_pool', *args) as site:
        code, _, err = site.stop()
    assert code == 0, site.report()
    assert err.count('handler ran') == 1
    assert 'did not end' not in err


@pytest.mark.parametrize('server', SERVERS)
def test_a_pool_that_pages_use_does_not_hold_the_stop_of_any_server(tmp_path, server):
    with served(tmp_path, 'nothing', server=server) as site:
        assert site.get().status == 200
        code, _, err = site.stop()
    assert code == 0, site.report()
    assert err.count('handler ran') == 1
    assert 'did not end' not in err


def test_an_idle_pool_does_not_hold_a_graceful_restart(tmp_path):
    args = ['--workers', '1', '--pid-file', 'paster.pid']
    with served(tmp_path, 'idle_pool', *args) as site:
        command = run(tmp_path, 'site.ini', 'graceful', '--pid-file', 'paster.pid')
        assert command.code == 0, command.report()
        site.expect('handler ran')
        code, _, err = site.stop()
    assert code == 0, site.report()
    assert err.count('handler ran') == 2
    assert 'did not end' not in err


def test_an_idle_pool_does_not_hold_a_restart_in_place(tmp_path):
    with served(tmp_path, 'idle_pool') as site:
        site.send(signal.SIGHUP)
        site.wait_until_served(2)
        # In the process that has tried the code, and in this one.
        assert site.err.text.count('handler ran') == 2
        code, _, err = site.stop()
    assert code == 0, site.report()
    assert err.count('handler ran') == 3
    assert 'did not end' not in err


def test_an_idle_pool_does_not_hold_the_stop_of_a_daemon(tmp_path):
    ini = INI.format(
        how='idle_pool', joins=60, settings='', server=SERVERS['waitress'] + TCP
    )
    ground = Ground(tmp_path, ini)
    ground.start(files={'webapp.py': WEBAPP})
    ground.stop()
    log = ground.log_file.read_text()
    assert log.count('handler ran') == 1
    assert 'did not end' not in log


@each_mode
def test_a_job_that_runs_at_the_stop_is_done_before_the_handlers(tmp_path, args):
    with served(tmp_path, 'works', *args) as site:
        code, _, err = site.stop()
    assert code == 0, site.report()
    assert re.findall('job done|handler ran', err) == ['job done', 'handler ran']


def test_a_job_that_runs_at_a_restart_in_place_is_done(tmp_path):
    with served(tmp_path, 'works') as site:
        site.send(signal.SIGHUP)
        site.wait_until_served(2)
        assert 'job done\nhandler ran' in site.err.text


# -- threads that do not end ------------------------------------------------------------


@pytest.mark.parametrize('args', [[], ['--workers', '1']], ids=' '.join)
@pytest.mark.parametrize(
    'how, name',
    [('never_ends', 'everlasting'), ('job_never_ends', 'ThreadPoolExecutor-0_0')],
)
def test_a_thread_that_does_not_end_is_named_and_the_handlers_run(
    tmp_path, args, how, name
):
    with served(tmp_path, how, *args, joins=0.2) as site:
        code, _, err = site.stop()
    assert code == 70, site.report()
    assert f'Thread {name} did not end within 0.' in err
    assert 'in hang_in_here' in err
    assert f'Threads that do not end: {name}; the process ends without them' in err
    assert err.count('handler ran') == 1


def test_the_deadline_of_the_stop_bounds_the_wait_for_threads(tmp_path):
    with served(tmp_path, 'never_ends', settings='stop_timeout = 1') as site:
        code, _, err = site.stop()  # join_timeout is 60 s
    assert code == 70, site.report()
    assert err.count('handler ran') == 1


def test_a_second_signal_skips_the_wait_for_a_thread_but_not_for_an_idle_pool(tmp_path):
    with served(tmp_path, 'idle_pool') as site, site.connect() as client:
        client.send('/hang')
        site.expect('hanging')
        site.send(signal.SIGTERM)
        site.expect('requests in flight')
        code, _, err = site.stop()
    assert code == 0, site.report()
    assert 'did not end' not in err


def test_a_start_that_fails_does_not_wait_for_its_threads_for_ever(tmp_path):
    ini = INI.replace('webapp:make', 'webapp:make_fails').format(
        how='nothing', joins=1, settings='', server=SERVERS['waitress'] + TCP
    )
    process = run(tmp_path, 'site.ini', files={'site.ini': ini, 'webapp.py': WEBAPP})
    assert process.code not in (0, 70), process.report()
    assert 'Threads that do not end: everlasting' in process.err.text
    assert process.err.text.count('handler ran') == 1


# -- handlers of atexit -----------------------------------------------------------------


def test_a_handler_that_hangs_is_cut_and_the_others_run(tmp_path):
    with served(tmp_path, 'handler_hangs', settings='stop_timeout = 1') as site:
        code, _, err = site.stop()
    assert code == 70, site.report()
    assert err.count('handler ran') == 1
    assert 'an atexit handler hangs' in err
    assert 'in hang_in_here' in err


def test_handlers_that_fail_do_not_change_the_exit_code(tmp_path):
    with served(tmp_path, 'handlers_fail') as site:
        code, _, err = site.stop()
    assert code == 0, site.report()
    assert err.count('handler ran') == 1


# -- the forced end ---------------------------------------------------------------------


@pytest.mark.parametrize('args', [[], ['--workers', '1']], ids=' '.join)
def test_at_the_deadline_the_culprit_is_named_first_and_the_handlers_run(
    tmp_path, args
):
    with served(tmp_path, 'stop_hangs', *args, settings='stop_timeout = 4') as site:
        code, _, err = site.stop()
    assert code == 70, site.report()
    (line,) = re.findall(r'.*did not stop within .*', err)
    assert "'stop' listener webapp.hang_in_here has run for " in line
    place = r'\S*/webapp\.py:\d+ in hang_in_here; leaving now'
    assert re.search(f' s, at {place}', line), line
    assert err.count('handler ran') == 1


def test_the_culprit_is_named_also_if_the_site_was_never_started(tmp_path):
    with served(
        tmp_path, 'start_fails', settings='stop_timeout = 1', wait=False
    ) as site:
        code = site.wait()
    assert code == 70, site.report()
    assert 'webapp.hang_in_here has run for ' in site.err.text
    assert site.err.text.count('handler ran') == 1


@pytest.mark.parametrize('how', ['stop_holds_the_gil', 'stop_backtracks'])
def test_one_process_whose_stop_holds_the_gil_ends_with_1(tmp_path, how):
    with served(tmp_path, how, settings='stop_timeout = 1') as site:
        code, _, err = site.stop()
    assert code == 1, site.report()
    assert 'Timeout (0:00:01.' in err
    assert 'webapp.py' in err


# -- forks while the site stops ---------------------------------------------------------


@pytest.mark.parametrize('how', ['fork_exits', 'fork_fails', 'fork_returns'])
@pytest.mark.parametrize('args', [[], ['--workers', '1']], ids=' '.join)
def test_a_child_that_a_stop_listener_forks_does_not_close_the_site(
    tmp_path, args, how
):
    with served(tmp_path, how, *args, '--pid-file', 'paster.pid') as site:
        code, _, err = site.stop()
    assert code == 0, site.report()
    assert err.count('closed by parent') == 1
    assert 'closed by child' not in err
    assert 'PID file: True' in err
    eventually(site.has_left_nothing)
