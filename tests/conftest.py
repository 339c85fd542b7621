import os
import signal

import pytest
from environments import IN, RECIPES, is_for_this_python

# What is ignored here is ignored in programs that the tests start, too.
if hasattr(signal, 'SIGHUP'):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in a shell's background


def pytest_ignore_collect(collection_path):
    """tests/test_guest_zope.py, tests/test_host_uwsgi.py: where its environment can be."""
    kind, _, name = collection_path.stem.removeprefix('test_').partition('_')
    name = IN.get(name, name)
    if kind in ('guest', 'host') and name in RECIPES and not is_for_this_python(name):
        return True
    return None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if os.environ.get('CI') and terminalreporter.stats.get('skipped'):
        terminalreporter.write_line('CI installs all it needs: nothing may be skipped')


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin('terminalreporter')
    if os.environ.get('CI') and reporter and reporter.stats.get('skipped'):
        session.exitstatus = 1
