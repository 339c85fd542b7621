"""Signals before the site has handlers, and after its end: none is lost, none changes the code."""

import signal
import sys
from types import SimpleNamespace

import pytest

from paste_wspbus.ini.config import Terminated
from paste_wspbus.process import early_signals
from paste_wspbus.process.early_signals import EarlySignals
from tests.kit import Site, eventually, run
from tests.kit.sites import SERVED

APP = """
import atexit, os, signal, sys, threading, weakref


class Finalized:
    def __del__(self):
        ask()


def ask():
    os.kill(os.getpid(), signal.{signum})


def finalizer():
    Finalized()


def callback():
    thing = type('Thing', (), {{}})()
    kept = weakref.ref(thing, lambda _: ask())
    del thing


def swallowed():
    try:
        ask()
        threading.Event().wait(0.001)
    except BaseException:
        pass


def make(global_conf):
    {how}()
    if {how} is not swallowed:
        os.read(0, 1)
    return lambda environ, start_response: start_response('200 OK', []) and []
"""


@pytest.mark.parametrize('how', ['finalizer', 'callback', 'swallowed'])
@pytest.mark.parametrize(
    ('signum', 'code', 'args'),
    [
        ('SIGTERM', 143, []),
        ('SIGTERM', 1, ['--workers', '1']),  # of the worker alone
        ('SIGINT', 130, []),  # a worker ignores it: its supervisor has it, too
    ],
)
def test_a_signal_is_not_lost_where_python_drops_its_exception(
    tmp_path, how, signum, code, args
):
    files = {'webapp.py': APP.format(how=how, signum=signum)}
    with Site(tmp_path, SERVED, *args, files=files, wait=False) as site:
        assert site.wait() == code, site.report()
        assert site.has_left_nothing()
    assert 'Serving on' not in site.out.text
    assert 'Traceback' not in site.err.text
    assert 'Exception ignored' not in site.err.text
    if signum == 'SIGINT':
        assert site.err.text == 'Interrupted.\n'


AT_THE_END = """
import atexit, os, signal, sys


class Finalized:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.{signum}):
        kill(pid, number)


sys.kept = Finalized()  # it is finalized after the modules of the site
atexit.register(os.kill, os.getpid(), signal.{signum})


def make(global_conf):
    return lambda environ, start_response: start_response('200 OK', []) and []
"""


@pytest.mark.parametrize(
    'signum',
    ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1', 'SIGALRM', 'SIGVTALRM', 'SIGTTOU'],
)
def test_a_signal_after_the_site_has_stopped_does_not_change_its_exit_code(
    tmp_path, signum
):
    files = {'webapp.py': AT_THE_END.format(signum=signum)}
    ini = SERVED
    if signum in ('SIGALRM', 'SIGVTALRM', 'SIGTTOU'):
        ini += f'\n[wspbus:main]\nsignal.{signum} = reopen_logs\n'
    with Site(tmp_path, ini, files=files) as site:
        code, _, err = site.stop()
    assert code == 0, site.report()
    assert err == 'INFO  [paste_wspbus] Stopping: SIGTERM\n'


def test_the_second_signal_ends_an_atexit_handler_that_hangs(tmp_path):
    app = AT_THE_END.format(signum='SIGCONT')
    hang = "atexit.register(lambda: [os.write(2, b'hangs\\n'), os.read(0, 1)])\n"
    with Site(tmp_path, SERVED, files={'webapp.py': app + hang}) as site:
        site.send(signal.SIGTERM)
        site.expect('hangs')
        site.send_again(signal.SIGTERM)
        site.send_again(signal.SIGTERM)
        # Not after the 10 s of `limit_the_end`.
        assert site.wait(8) == 70, site.report()


def test_ctrl_c_while_the_command_is_imported_ends_with_one_line(tmp_path):
    script = (
        'import os, signal, sys\n'
        'class Finder:\n'
        '    def find_spec(self, name, *_):\n'
        "        if name == 'paste_wspbus.command.main':\n"
        '            os.kill(os.getpid(), signal.SIGINT)\n'
        'sys.meta_path.insert(0, Finder())\n'
        'from paste_wspbus.__main__ import main\n'
        'sys.exit(main())'
    )
    process = run(tmp_path, command=[sys.executable, '-c', script])
    assert process.code == 130
    assert process.err.text == 'Interrupted.\n'


# -- what notes them -------------------------------------------------------------------


def test_a_signal_is_only_noted_where_an_exception_would_do_harm():
    early = EarlySignals()
    early.handle(signal.SIGTERM, None)
    assert early.wish == signal.SIGTERM
    with pytest.raises(Terminated) as error, early.raising():
        raise AssertionError('not reached')
    assert error.value.code == 143


def test_the_end_of_the_terminal_while_the_site_is_loaded_has_its_own_code(monkeypatch):
    monkeypatch.setattr(early_signals, '_has_terminal', lambda: True)
    early = EarlySignals()
    with pytest.raises(Terminated) as error, early.raising():
        early.handle(signal.SIGHUP, None)
    assert error.value.code == 129


@pytest.mark.parametrize('first', ['SIGTERM', 'SIGQUIT'])
def test_a_second_signal_does_not_interrupt_what_the_first_one_does(monkeypatch, first):
    early, done = EarlySignals(), []

    def do():
        early.handle(signal.SIGTERM, None)
        done.append(True)

    monkeypatch.setattr(early_signals, '_write_stacks', do)
    early.before = do
    with pytest.raises(Terminated), early.raising():
        early.handle(getattr(signal, first), None)
        raise AssertionError('not reached')
    assert done[-1:] == [True]


def test_a_second_sigterm_does_not_interrupt_the_clean_up():
    early, cleaned = EarlySignals(), []
    with pytest.raises(Terminated), early.raising():
        try:
            early.handle(signal.SIGTERM, None)
        finally:
            early.handle(signal.SIGTERM, None)
            cleaned.append(True)
    assert cleaned


def test_the_hook_of_others_hears_of_their_exceptions(monkeypatch):
    heard = []
    monkeypatch.setattr(
        sys, 'unraisablehook', lambda args: heard.append(args.exc_value)
    )

    class Broken:
        def __del__(self):
            raise LookupError('mine')

    hook, early = sys.unraisablehook, EarlySignals()
    with early.raising():
        Broken()
    assert [str(error) for error in heard] == ['mine']
    assert sys.unraisablehook is hook


def test_signals_for_later_are_sent_again_but_none_that_would_kill():
    early, came = EarlySignals(), []
    before = signal.signal(signal.SIGUSR1, lambda *_: came.append('USR1'))
    try:
        early.handle(signal.SIGUSR1, None)
        early.handle(signal.SIGUSR2, None)
        assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL
        early.repeat()
        eventually(lambda: came == ['USR1'])
        assert early.later == []
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_signal_that_comes_while_a_dropped_one_is_reported_is_not_lost(monkeypatch):
    """It must not raise in sys.unraisablehook: Python would only print that."""
    early = EarlySignals()

    def comes(*_):
        early.handle(signal.SIGTERM, None)

    monkeypatch.setattr('_thread.start_new_thread', comes)
    with early.raising():
        with pytest.raises(Terminated) as dropped:
            early.handle(signal.SIGTERM, None)
        sys.unraisablehook(SimpleNamespace(exc_value=dropped.value))
        with pytest.raises(Terminated):
            early.handle(signal.SIGTERM, None)
