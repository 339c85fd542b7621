"""The reference has each setting, option, channel and field of the code."""

import ast
import importlib.util
import inspect
import pydoc
import re
from pathlib import Path

import pytest

import paste_wspbus
from paste_wspbus import exits, hello
from paste_wspbus.bus.messages import RESERVED
from paste_wspbus.command.arguments import SUBCOMMANDS, WITHOUT_FILE
from paste_wspbus.command.parser import make_parser
from paste_wspbus.errors import SettingError
from paste_wspbus.ini import wsgi_object
from paste_wspbus.ini.settings import SETTINGS, SIGNAL
from paste_wspbus.plugins import CHANNELS
from paste_wspbus.plugins.json_log import _FIELDS
from paste_wspbus.ready.accesslog import check_settings, lines
from tests.kit.places import DOCS, ROOT
from tests.project.said import modules

REFERENCE = DOCS / 'reference'


def load_from_code():
    spec = importlib.util.spec_from_file_location('from_code', DOCS / 'from_code.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


from_code = load_from_code()


def page(name):
    return (REFERENCE / f'{name}.md').read_text()


def first_cells(text):
    """What stands in code font in the first cells of all tables."""
    cells = re.findall(r'^\| (.*?) \|', text, re.M)
    return {name for cell in cells for name in re.findall(r'`([^`]+)`', cell)}


def test_each_key_of_the_main_section_is_described():
    keys = re.findall(r'^### (\S+)$', page('settings'), re.M)
    assert sorted(keys) == sorted([*SETTINGS, f'{SIGNAL}NAME'])
    for key, text in re.findall(r'^### (\S+)\n\n(.*)$', page('settings'), re.M):
        assert len(text) > 20, key


def test_each_key_of_the_main_section_has_what_the_code_says():
    built = from_code.filled(page('settings'))
    for key, setting in SETTINGS.items():
        assert f'### {key}\n\n*Takes* {from_code.cell(setting.takes)}' in built
    assert '*default* `25`' in from_code.facts('stop_timeout')
    assert 'stop and a start' in from_code.facts('ops')


@pytest.mark.parametrize('part', from_code.PARTS)
def test_each_cell_of_a_table_from_the_code_says_something(part):
    (rows, *_) = made = re.findall(r'^\| (.*) \|$', from_code.PARTS[part](), re.M)
    assert rows
    for row in made:
        assert all(re.split(r'(?<!\\) \| ', row)), row


@pytest.mark.parametrize(
    'path', [*DOCS.rglob('*.md')], ids=lambda path: str(path.relative_to(DOCS))
)
def test_each_mark_of_a_page_has_its_part(path):
    assert '<!-- from the code' not in from_code.filled(path.read_text())


def test_each_part_has_its_page():
    pages = [path.read_text() for path in DOCS.rglob('*.md')]
    marks = [mark for page in pages for mark in from_code.MARK.findall(page)]
    assert sorted(marks) == sorted([*from_code.PARTS, 'settings'])


def test_each_plugin_of_this_package_is_a_section():
    built = from_code.filled(page('sections'))
    group = (ROOT / 'setup.cfg').read_text().split('paste_wspbus.plugin_factory =')[1]
    # An sdist has it in the form of setuptools, with tabs.
    names = re.findall(r'^(?:    |\t)(\w+) =', group.partition('\npaste_')[0], re.M)
    assert len(names) > 6
    for name in names:
        assert f'### egg:paste_wspbus#{name}\n' in built


@pytest.mark.parametrize('make', [wsgi_object.make_app, hello.make_app])
def test_each_key_of_an_application_is_described(make):
    (_, *keys) = inspect.signature(make).parameters
    assert {*keys} - {'more'} <= set(re.findall(r'\| `(\w+)` \|', page('sections')))


def test_each_word_and_option_of_the_command_line_is_there():
    words = {text.split()[0] for text in first_cells(from_code.command_line())}
    options = make_parser('wspserve')._option_string_actions
    assert {*SUBCOMMANDS, *WITHOUT_FILE, *options} <= words


def test_each_exit_code_is_there():
    numbers = {value for name, value in vars(exits).items() if name.isupper()}
    said = {int(n) for n in re.findall(r'^\| (\d+) \|', from_code.exit_codes(), re.M)}
    assert {one for one in numbers if isinstance(one, int)} == said


def test_each_public_name_is_on_the_page_of_the_api():
    named = re.findall(r'^\.\. auto\w+:: ([\w.]+)', page('api'), re.M)
    shown = [pydoc.locate(name) for name in named]
    assert None not in shown
    assert {getattr(paste_wspbus, name) for name in paste_wspbus.__all__} <= {*shown}


# -- channels ------------------------------------------------------------------------


def published():
    """The channels that the package publishes under a name that stands in the code."""
    calls = (
        node
        for tree in modules().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and node.args
    )
    for call in calls:
        name, first = getattr(call.func, 'attr', ''), call.args[0]
        is_name = name in ('publish', 'post') and isinstance(first, ast.Constant)
        if is_name and 'bus' in ast.unparse(call.func):
            yield first.value


def test_each_channel_is_described():
    found = set(published())
    assert len(found) > 5
    assert {*CHANNELS, *RESERVED, *found} == first_cells(
        page('channels').partition('`bus.broadcast')[0]
    )


# -- fields --------------------------------------------------------------------------


def fields_of_the_access_log(monkeypatch):
    """The fields that a wrong one is compared with, for the hint of its message."""
    found = []
    monkeypatch.setattr(lines, 'nearest', lambda _, known: found.extend(known) or '')
    with pytest.raises(SettingError, match='there is no field'):
        check_settings({'file': Path('/dev/stdout'), 'format': '{x}', 'query': True})
    return set(found)


def test_each_field_of_a_log_line_is_described(monkeypatch):
    log, access = page('log-fields').split('## A line of the access log')
    assert set(_FIELDS.values()) | {'time', 'message', 'traceback'} <= first_cells(log)
    assert first_cells(access) == fields_of_the_access_log(monkeypatch)
    marked = re.findall(r'^\| `(\w+)` \| ✓ \|', access, re.M)
    assert sorted(marked) == sorted(lines.JSON)
