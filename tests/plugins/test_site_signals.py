"""Signals that the site handles itself, signals that asyncio gives back, and SIGQUIT."""

import os
import re
import signal

import pytest

from paste_wspbus.bus.interrupts import Interrupts
from tests.kit import Site, eventually, run
from tests.kit.processes import asleep, processes_of_session
from tests.kit.sites import SERVED
from tests.kit.stand_in import status_json

INI = SERVED + '[wspbus:main]\nplugins = db\n%s\n[plugin:db]\nuse = call:webapp:db\n'

WEBAPP = """
import asyncio
import faulthandler
import importlib
import logging
import os
import signal
import sys
import threading


def say(text):
    os.write(2, (text + '\\n').encode())


def on(name, then=lambda: None):
    signal.signal(getattr(signal, name), lambda *_: [say('mine ' + name), then()])


def leave(code):
    raise SystemExit(code)


def end():
    raise GeneratorExit('mine')


def fail():
    raise LookupError('mine')


def asyncio_handles(*names):
    async def warm_up():
        loop = asyncio.get_running_loop()
        for name in names:
            loop.add_signal_handler(getattr(signal, name), loop.stop)
            loop.remove_signal_handler(getattr(signal, name))
    asyncio.run(warm_up())


def at_load():
    pass


def at_start():
    pass


def db(bus, global_conf):
    bus.subscribe('graceful', lambda: [at_graceful(), say('graceful')])
    at_start()
    yield
    say('closed')


def at_graceful():
    pass


def make(global_conf):
    at_load()
    return lambda environ, start_response: start_response('200 OK', []) and []
"""


def site(tmp_path, *args, settings='', wait=True, **code):
    """A site whose functions ``at_load`` and others do what ``code`` says."""
    text = WEBAPP
    for name, what in code.items():
        text = text.replace(f'def {name}():\n    pass', f'def {name}():\n    {what}')
    files = {'webapp.py': text}
    return Site(tmp_path, INI % settings, *args, files=files, wait=wait)


# -- stops -----------------------------------------------------------------------------


@pytest.mark.parametrize('when', ['at_load', 'at_start'])
@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ('then', 'code'),
    [
        ('', 0),
        (', lambda: leave(0)', 0),
        (', lambda: leave(3)', 3),
        (', fail', 0),
        (', end', 0),  # it raises no Exception
    ],
    ids=['returns', 'exits', 'exits 3', 'fails', 'ends'],
)
def test_the_sites_own_handler_is_called_and_then_the_site_stops(
    tmp_path, when, signum, then, code
):
    with site(tmp_path, **{when: f'on("{signum.name}"{then})'}) as running:
        assert running.stop(signum)[0] == code, running.report()
    said = [line for line in running.err.text.splitlines() if line[:1].islower()]
    assert said == [f'mine {signum.name}', 'closed']
    assert ('LookupError: mine' in running.err.text) == (then == ', fail')
    assert ('GeneratorExit: mine' in running.err.text) == (then == ', end')


def test_a_handler_of_the_site_that_hangs_does_not_keep_the_third_signal_away(tmp_path):
    hangs = 'on("SIGTERM", lambda: threading.Event().wait())'
    with site(tmp_path, at_load=hangs) as running:
        running.send(signal.SIGTERM)
        running.expect('mine SIGTERM')
        for _ in range(2):
            running.send_again(signal.SIGTERM)
        assert running.wait() == 70, running.report()


def test_a_handler_of_the_site_that_hangs_ends_with_the_time_for_the_stop(tmp_path):
    hangs = 'on("SIGTERM", lambda: threading.Event().wait())'
    with site(tmp_path, at_load=hangs, settings='stop_timeout = 1') as running:
        running.send(signal.SIGTERM)
        assert running.wait() == 70, running.report()
    assert 'The stop has not begun within' in running.err.text


#: What the thread that hangs may hold: the log, the import of a module, `threading`.
HELD = {
    'log': '[known().acquire() for known in logging._handlerList]',
    'import': 'importlib._bootstrap._get_module_lock("paste_wspbus.bus.culprits").acquire()'
    ', sys.modules.pop("paste_wspbus.bus.culprits", None)',
    'threading': 'threading._active_limbo_lock.acquire()',
}


@pytest.mark.parametrize('held', HELD)
def test_it_says_why_it_ends_though_what_hangs_holds_a_lock(tmp_path, held):
    hangs = f'on("SIGTERM", lambda: [{HELD[held]}, threading.Event().wait()])'
    with site(tmp_path, at_load=hangs, settings='stop_timeout = 1') as running:
        running.send(signal.SIGTERM)
        assert running.wait() == 70, running.report()
    assert running.err.text.count('The stop has not begun within 2 s; leaving') == 1
    assert 'in <lambda>' in running.err.text  # the stack


MODES = {
    'one process': ((), 0),
    'workers': (('--workers', '2'), None),
    'fork': (('--reload', '--reloader', 'fork'), None),
    'execv': (('--reload', '--reloader', 'execv'), 0),
}


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('error', ['LookupError', 'TimeoutError', 'GeneratorExit'])
def test_a_handler_that_raises_ends_the_process_in_order(tmp_path, error, mode):
    def fails(name):
        return f'on("SIGWINCH", lambda: (_ for _ in ()).throw({name}("mine")))'

    args, own = MODES[mode]
    # GeneratorExit must not be thrown into a generator, which would only end.
    code = fails(error) if error != 'GeneratorExit' else 'on("SIGWINCH", end)'
    with site(tmp_path, *args, at_load=code) as running:
        running.get()
        # The main thread is in block(), and does not register the site any more.
        eventually(lambda: run(tmp_path, 'site.ini', 'status').code == 0)
        pid = running.pid if own == 0 else serving(tmp_path)
        eventually(lambda: asleep(pid))
        os.kill(pid, signal.SIGWINCH)
        running.expect('closed')
        running.expect(f'{error} in the main thread')
        if own == 0:
            assert running.wait() == 1, running.report()
        else:
            running.expect('crashed')
            assert running.stop()[0] == 0, running.report()
    eventually(running.has_left_nothing)


def serving(folder):
    workers = status_json(folder)[1]['workers']
    names = ('site', 'worker 1')
    (pid,) = (
        one['pid']
        for one in workers
        if one['name'] in names and one['state'] == 'ready'
    )
    return pid


# -- others ----------------------------------------------------------------------------


@pytest.mark.parametrize('when', ['at_load', 'at_start'])
def test_other_signals_that_the_site_takes_are_left_to_it(tmp_path, when):
    with site(tmp_path, **{when: 'on("SIGUSR1"); on("SIGHUP")'}) as running:
        for name in ('SIGUSR1', 'SIGHUP'):
            running.send(getattr(signal, name))
            running.expect(f'mine {name}')
        assert running.stop()[0] == 0, running.report()
    assert running.err.text.count('leaves that to it') == 1
    assert 'The site handles SIGHUP, SIGUSR1 itself' in running.err.text
    assert running.out.text.count('Serving on') == 1


def test_a_handler_in_c_is_the_sites_too(tmp_path):
    with site(tmp_path, at_load='faulthandler.register(signal.SIGUSR1)') as running:

        def shows():  # Python 3.14 shows nothing while a thread ends
            running.send(signal.SIGUSR1)
            return running.err.wait_for('most recent call first', timeout=1)

        eventually(shows)
        running.expect('The site handles SIGUSR1 itself')
        assert running.stop()[0] == 0, running.report()


def test_a_signal_that_the_ini_names_is_not_the_sites(tmp_path):
    settings = 'signal.SIGUSR1 = graceful'
    with site(tmp_path, settings=settings, at_load='on("SIGUSR1")') as running:
        running.send(signal.SIGUSR1)
        running.expect('graceful')
        assert running.stop()[0] == 0, running.report()
    assert 'mine' not in running.err.text
    assert 'leaves' not in running.err.text


@pytest.mark.parametrize('args', [(), ('--workers', '1')])
def test_a_signal_is_given_away_without_a_word(tmp_path, args):
    settings = 'signal.SIGUSR1 = none'
    with site(tmp_path, *args, settings=settings, at_load='on("SIGUSR1")') as running:
        running.send(signal.SIGUSR1)
        running.expect('mine SIGUSR1')
        assert running.stop()[0] == 0, running.report()
    assert 'leaves' not in running.err.text


def test_a_signal_that_nobody_wants_does_what_the_system_does(tmp_path):
    with site(tmp_path, settings='signal.SIGUSR1 = none') as running:
        running.send(signal.SIGUSR1)
        assert running.wait() == -signal.SIGUSR1


# -- asyncio ---------------------------------------------------------------------------


@pytest.mark.parametrize('when', ['at_load', 'at_start', 'at_graceful'])
@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_asyncio_gave_back_stops_the_site_in_order(
    tmp_path, when, signum
):
    settings = 'signal.SIGUSR2 = graceful'
    code = {when: 'asyncio_handles("SIGTERM", "SIGINT")'}
    with site(tmp_path, settings=settings, **code) as running:
        for count in (1, 2):
            running.send(signal.SIGUSR2)
            running.expect('graceful', count)
            if when == 'at_graceful':  # until it is noticed, the system has the signals
                running.expect('gave the signal', count)
        assert running.stop(signum)[0] == 0, running.report()
    assert 'closed' in running.err.text
    warnings = {'at_load': 0, 'at_start': 1, 'at_graceful': 2}[when]
    warning = 'SIGINT, SIGTERM: code of the site, such as asyncio, gave the signal'
    assert running.err.text.count(warning) == warnings


def test_the_wake_up_descriptor_that_asyncio_removed_is_set_again():
    with Interrupts():
        ours = signal.set_wakeup_fd(-1)
        Interrupts.renew_all()
        assert signal.set_wakeup_fd(ours, warn_on_full_buffer=False) == ours != -1
        reader, others = os.pipe()
        os.set_blocking(others, False)
        signal.set_wakeup_fd(others)  # one that is in use stays
        Interrupts.renew_all()
        assert signal.set_wakeup_fd(ours, warn_on_full_buffer=False) == others
        os.close(reader)
        os.close(others)


# -- SIGQUIT ---------------------------------------------------------------------------


def test_sigquit_shows_the_stacks_and_the_site_goes_on(tmp_path):
    with site(tmp_path) as running:
        running.send(signal.SIGQUIT)
        running.expect(f'Stacks of process {running.pid}:')
        running.expect('Thread MainThread:')
        assert running.get().status == 200
        assert running.stop()[0] == 0, running.report()
    assert {'site.pid'}.isdisjoint(os.listdir(tmp_path))


def test_a_supervisor_shows_its_stacks_and_those_of_its_workers(tmp_path):
    with site(tmp_path, '--workers', '2') as running:
        os.killpg(running.pid, signal.SIGQUIT)  # as Ctrl-\ does
        # The stacks have a line of code that says it, too.
        shown = re.compile(r'Stacks of process \d+:').findall
        eventually(lambda: len(shown(running.err.text)) == 3)
        assert running.get().status == 200
        assert running.stop()[0] == 0, running.report()
    assert len(shown(running.err.text)) == 3
    assert 'crashed' not in running.err.text


@pytest.mark.parametrize(
    ('args', 'settings', 'count'),
    [
        (('--workers', '2'), 'preload = true', 4),
        (('--reload', '--reloader', 'fork'), '', 4),  # packages, a spare
        (('--reload', '--reloader', 'child'), '', 2),
    ],
    ids=['preload', 'fork', 'child'],
)
def test_sigquit_reaches_every_process_of_a_site(tmp_path, args, settings, count):
    with site(tmp_path, *args, settings=settings) as running:
        eventually(lambda: len(processes_of_session(running.pid)) == count)

        def all_show_stacks():
            # Again, as a process may have been forked just after the signal.
            running.send(signal.SIGQUIT)
            return all(
                running.err.wait_for(f'Stacks of process {pid}:', timeout=5)
                for pid in processes_of_session(running.pid)
            )

        eventually(all_show_stacks)
        assert running.get().status == 200
        assert running.stop()[0] == 0, running.report()


@pytest.mark.parametrize(
    ('args', 'settings'),
    [((), ''), (('--workers', '1'), ''), (('--workers', '1'), 'preload = true')],
    ids=['single', 'workers', 'preload'],
)
@pytest.mark.parametrize('when', ['at_load', 'at_start'])
def test_sigquit_shows_where_a_start_hangs(tmp_path, when, args, settings):
    code = {when: "say('hangs'); os.read(0, 1)"}
    with site(tmp_path, *args, wait=False, settings=settings, **code) as running:
        running.expect('hangs')
        running.send(signal.SIGQUIT)
        running.expect(f'in {when}')
        running.release()
        running.wait_until_served()
        assert running.stop()[0] == 0, running.report()


def test_sigquit_may_be_given_back_to_the_system(tmp_path):
    with site(tmp_path, settings='signal.SIGQUIT = none') as running:
        running.send(signal.SIGQUIT)
        assert running.wait() == -signal.SIGQUIT
    eventually(running.has_left_nothing)


#: What Python runs first: it reports each import inside the handler of a signal.
REPORTS_IMPORTS = """
import os
import sys


def report(event, args):
    frame = sys._getframe(1) if event == 'import' else None
    while frame is not None:
        code = frame.f_code
        if code.co_name == 'handle' and 'signals.py' in code.co_filename:
            os.write(2, f'imported in a handler: {args[0]}\\n'.encode())
        frame = frame.f_back


sys.addaudithook(report)
"""


@pytest.mark.parametrize(
    'args',
    [(), ('--workers', '2'), ('--reload',), ('--reload', '--reloader', 'child')],
    ids=['single', 'workers', 'fork', 'child'],
)
@pytest.mark.parametrize(
    ('signum', 'said'),
    [
        (signal.SIGQUIT, 'Thread MainThread:'),
        (signal.SIGUSR1, 'reopened'),
        (signal.SIGHUP, 'closed'),
    ],
)
def test_no_handler_imports(tmp_path, args, signum, said):
    # It may have interrupted another import. Python 3.11 cannot do both: a KeyError of
    # importlib ended the site.
    (tmp_path / 'sitecustomize.py').write_text(REPORTS_IMPORTS)
    env = {**os.environ, 'PYTHONPATH': str(tmp_path)}
    says = "    bus.subscribe('reopen_logs', lambda: say('reopened'))"
    files = {'webapp.py': WEBAPP.replace('    at_start()', says)}
    with Site(tmp_path, INI % '', *args, files=files, env=env) as running:
        running.send(signum)
        running.expect(said)
        assert running.get().status == 200
        assert running.stop()[0] == 0, running.report()
    assert 'imported in a handler' not in running.err.text
