import atexit
import os
import shutil
import signal
import tempfile
import warnings
import zlib

import pytest

from tests.environments import RECIPES, is_for_this_python, of_file
from tests.kit.buses import bus, log  # noqa: F401
from tests.kit.daemons import ground  # noqa: F401
from tests.kit.systemd import manager  # noqa: F401

#: Where a file of tests is named after the environment that it needs.
ROOMS = ('frameworks', 'hosts', 'servers')

# WebOb imports cgi, of which Python 3.11 and 3.12 warn: whichever test is first.
with warnings.catch_warnings():
    warnings.simplefilter('ignore', DeprecationWarning)
    import webob  # noqa: F401

# What is ignored here is ignored in programs that the tests start, too.
if hasattr(signal, 'SIGHUP'):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # in a shell's background
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# The sites of the tests register there, and not among the sites of this machine.
os.environ['RUNTIME_DIRECTORY'] = tempfile.mkdtemp(prefix='wspbus-sites-')
atexit.register(shutil.rmtree, os.environ['RUNTIME_DIRECTORY'], ignore_errors=True)


def pytest_addoption(parser):
    parser.addoption(
        '--part',
        metavar='K/N',
        help='run the K-th of N parts of the suite, such as 1/2: together they have each '
        'test but the benchmarks, a parametrized one with one of its cases',
    )


def pytest_collection_modifyitems(config, items):
    """Choose the tests of `--part`; a file's tests stay together, for they share fixtures.

    The benchmarks take minutes, and run with the whole suite, on one Python.
    """
    if not config.option.part:
        return
    part, parts = map(int, config.option.part.split('/'))
    seen = set()

    def is_chosen(item):
        name = item.path.relative_to(config.rootpath).as_posix()
        if item.path.name == 'test_benchmarks.py' or number(name) % parts != part - 1:
            return False
        test = item.nodeid.partition('[')[0]
        is_first = test not in seen
        seen.add(test)
        return is_first

    # By a number of its name: else the first cases would be all of one kind.
    chosen = {*filter(is_chosen, sorted(items, key=lambda item: number(item.nodeid)))}
    config.hook.pytest_deselected(items=[one for one in items if one not in chosen])
    items[:] = [one for one in items if one in chosen]


def number(name):
    """A number of a name, which is the same in each run."""
    return zlib.crc32(name.encode())


def pytest_ignore_collect(collection_path):
    """Leave out frameworks/test_zope.py and others where their environment cannot be."""
    name = of_file(collection_path)
    room = collection_path.parent.name
    if room in ROOMS and name in RECIPES and not is_for_this_python(name):
        return True
    return None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if os.environ.get('CI') and terminalreporter.stats.get('skipped'):
        terminalreporter.write_line('CI installs all it needs: nothing may be skipped')


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin('terminalreporter')
    if os.environ.get('CI') and reporter and reporter.stats.get('skipped'):
        session.exitstatus = 1
