"""CherryPy's own tests of its bus hold for ours."""

import ast
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest

from tests.kit.cherrypys import cherrypy, environment
from tests.kit.processes import TIMEOUT

CHERRYPYS_TESTS = Path(cherrypy.__file__).parent / 'test'


def functions_of(module, *classes):
    """Names of a test module's tests, without importing it."""
    tree = ast.parse((CHERRYPYS_TESTS / module).read_text())
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in classes:
            yield from (f.name for f in node.body if isinstance(f, ast.FunctionDef))
        elif isinstance(node, ast.FunctionDef) and not classes:
            yield node.name


def verdicts(tmp_path, *selection):
    """What becomes of CherryPy's tests on our bus: name → failure or ''."""
    report = tmp_path / 'report.xml'
    (tmp_path / 'pytest.ini').write_text('[pytest]\n')
    options = ['-q', '-p', 'no:cacheprovider', '-p', 'on_our_bus']
    options += ['-c', 'pytest.ini', '--junitxml', report]
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', *map(str, options), *selection],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=4 * TIMEOUT,
    )
    assert report.exists(), done.stdout.decode() + done.stderr.decode()
    return {
        case.get('name'): ''.join(
            ''.join(problem.itertext())
            for problem in case
            if problem.tag in ('failure', 'error')
        )
        for case in xml.etree.ElementTree.parse(report).iter('testcase')
    }


@pytest.fixture(scope='module')
def verdicts_on_the_bus(tmp_path_factory):
    # Theirs allow tens of milliseconds for what a busy machine needs more for: what
    # fails gets two more tries.
    file = str(CHERRYPYS_TESTS / 'test_bus.py')
    told = verdicts(tmp_path_factory.mktemp('bus'), file)
    for _ in range(2):
        failed = [f'{file}::{name}' for name, problem in told.items() if problem]
        if failed:
            told |= verdicts(tmp_path_factory.mktemp('bus'), *failed)
    return told


@pytest.mark.parametrize(
    'name', [n for n in functions_of('test_bus.py') if n.startswith('test_')]
)
def test_cherrypys_own_bus_tests_hold_for_our_bus(verdicts_on_the_bus, name):
    assert verdicts_on_the_bus.get(name, 'was not run') == ''


#: Those that touch files of the installed package or spawn cherryd are not run.
STATE_TESTS = ('test_0_NormalStateFlow', 'test_1_Restart', 'test_2_KeyboardInterrupt')


@pytest.fixture(scope='module')
def verdicts_on_states(tmp_path_factory):
    selection = [
        f'{CHERRYPYS_TESTS / "test_states.py"}::ServerStateTests::{name}'
        for name in STATE_TESTS
    ]
    return verdicts(tmp_path_factory.mktemp('states'), *selection)


@pytest.mark.parametrize('name', STATE_TESTS)
def test_cherrypys_own_state_tests_hold_for_our_bus(verdicts_on_states, name):
    assert verdicts_on_states.get(name, 'was not run') == ''
