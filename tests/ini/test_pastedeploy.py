"""How PasteDeploy is imported without `importlib.metadata` and `inspect`."""

import subprocess
import sys

import pytest

NAME = 'importlib.metadata'

#: In a fresh interpreter: a finder of an editable install may have imported it already.
BEGIN = f"""
import sys
sys.modules.pop({NAME!r}, None)
import importlib
vars(importlib).pop('metadata', None)
from paste_wspbus.ini import pastedeploy
"""


def printed(program):
    """Return what a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, '-c', program], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_it_is_imported_when_it_is_used_first():
    assert printed(
        BEGIN
        + f"""
before = {NAME!r} in sys.modules
found = pastedeploy.loadwsgi.importlib_metadata.distribution('WebOb')
print(before, found.name, pastedeploy.importlib_metadata.PackageNotFoundError.__name__)
"""
    ) == ['False', 'WebOb', 'PackageNotFoundError']


def test_an_import_by_others_gets_the_real_module():
    assert printed(
        BEGIN
        + """
import importlib.metadata
print(type(importlib.metadata).__name__, importlib.metadata.version('WebOb') > '1')
"""
    ) == ['module', 'True']


def test_a_thread_that_imports_it_just_then_can_use_it():
    assert printed(
        BEGIN
        + f"""
sys.modules.pop({NAME!r}, None)
stand_in = sys.modules[{NAME!r}] = pastedeploy._StandIn({NAME!r})
print(stand_in.version('WebOb') > '1', sys.modules[{NAME!r}] is stand_in)
"""
    ) == ['True', 'False']


def test_inspect_is_imported_for_the_message_that_needs_it():
    assert printed(
        """
import sys
sys.modules.pop('inspect', None)
from paste_wspbus.ini import pastedeploy
from paste.deploy.util import fix_call
before = 'inspect' in sys.modules
try:
    fix_call(lambda one, two: None, 1, 2, 3)
except TypeError as error:
    print(before, 'wanted (one, two)' in str(error), type(sys.modules['inspect']).__name__)
"""
    ) == ['False', 'True', 'module']


@pytest.mark.parametrize('name', ['waitress', 'waitress#main'])
def test_the_metadata_of_what_is_required_is_not_read(tmp_path, name):
    site = tmp_path / 'site.ini'
    site.write_text(f'[server:main]\nuse = egg:{name}\n')
    assert printed(
        BEGIN
        + f"""
from paste_wspbus.ini.config import Config
from paste_wspbus.ini.factories import SERVER
context = Config({str(site)!r}, {{}}, '.').loader.get_context(SERVER, 'main', {{}})
print(context.object.__name__, {NAME!r} in sys.modules)
"""
    ) == ['serve_paste', 'False']


def test_who_imports_it_meanwhile_gets_a_working_module(tmp_path):
    finder = tmp_path / 'sitecustomize.py'
    finder.write_text(
        'import sys\n'
        'class Finder:\n'
        '    def find_spec(self, name, path=None, target=None):\n'
        "        if name == 'paste.deploy':\n"
        '            import importlib.metadata\n'
        "            print(importlib.metadata.version('WebOb') > '1')\n"
        'sys.meta_path.insert(0, Finder())\n'
    )
    program = (
        f'import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport sitecustomize\n'
    )
    program = program.replace(
        'import sitecustomize', f'exec(open({str(finder)!r}).read())'
    )
    assert printed(program + BEGIN + 'print("paste.deploy" in sys.modules)') == [
        'True',
        'True',
    ]
