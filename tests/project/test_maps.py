"""What the pages for contributors say of the code: names, rooms, signals, sizes."""

import ast
import functools
import importlib.util
import re
import subprocess
import sys
from typing import NamedTuple

import pytest

from paste_wspbus.plugins.signals import DEFAULTS
from paste_wspbus.workers.supervisor import SIGNALS
from tests.kit.places import DOCS, ROOT

PACKAGE = ROOT / 'paste_wspbus'
#: In an sdist the folder of the samples is a copy, here it is a link.
SAMPLES = PACKAGE / 'templates/samples'
MODULES = sorted(path for path in PACKAGE.rglob('*.py') if SAMPLES not in path.parents)


def name_of(path):
    return str(path.relative_to(ROOT))


PAGES = [
    *(DOCS / name for name in ('architecture.md', 'signals.md', 'decisions.md')),
    DOCS / 'README.md',
    ROOT / 'CONTRIBUTING.md',
    ROOT / 'tests' / 'README.md',
]
each_page = pytest.mark.parametrize('page', PAGES, ids=name_of)


def load_rooms():
    spec = importlib.util.spec_from_file_location('rooms', DOCS / 'rooms.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


rooms = load_rooms()


# -- names ---------------------------------------------------------------------------


class Link(NamedTuple):
    """``[text](path#anchor)`` of a page."""

    text: str
    path: str
    anchor: str


def links(page):
    found = re.findall(r'\[([^\]]*)\]\(([^)#\s]*)#?([^)]*)\)', page.read_text())
    return [Link(*one) for one in found if not one[1].startswith('http')]


def targets(node):
    """The names that one statement gives a value."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    for target in getattr(node, 'targets', [getattr(node, 'target', None)]):
        for one in getattr(target, 'elts', [target]):
            if isinstance(one, ast.Name):
                yield one.id
            elif isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name):
                yield f'{one.value.id}.{one.attr}'


@functools.cache
def names(path):
    """What a module defines: 'name', 'Class.method', 'Class.attribute'."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        found.update(targets(node))
        if isinstance(node, ast.ClassDef):
            for inner in ast.walk(node):
                for name in targets(inner):
                    found.add(f'{node.name}.{name.removeprefix("self.")}')
    return found


@each_page
def test_each_file_and_function_that_a_page_links_to_is_there(page):
    def is_there(link):
        path = (page.parent / link.path).resolve() if link.path else page
        if not path.exists() or path.suffix != '.py' or link.text[:1] != '`':
            return path.exists()
        return link.text.strip('`').removesuffix('()') in names(path)

    assert [link for link in links(page) if not is_there(link)] == []


@each_page
def test_each_path_in_code_font_is_there(page):
    """From the root of the checkout, from the package, or from the folder of the page."""
    bases = ROOT, PACKAGE, page.parent
    for text in re.findall(r'`([\w.]+/[\w./]*)`', page.read_text()):
        if 'NAME' not in text:
            assert any((base / text).exists() for base in bases), text


@each_page
def test_each_section_that_a_page_links_to_is_there(page):
    for link in links(page):
        if link.anchor:
            text = (page.parent / link.path if link.path else page).read_text()
            titles = re.findall(r'^#+ (.*)$', text, re.M)
            slugs = [re.sub(r'[^\w\- ]', '', one.lower()) for one in titles]
            assert link.anchor in [slug.replace(' ', '-') for slug in slugs], link


# -- rooms ---------------------------------------------------------------------------


def test_the_picture_of_the_rooms_is_what_pyproject_says(tmp_path):
    made = tmp_path / 'made.svg'
    subprocess.run([sys.executable, DOCS / 'rooms.py', made], check=True)
    assert rooms.PICTURE.read_text() == made.read_text(), 'python docs/rooms.py'


def test_every_room_of_the_package_is_on_the_map():
    files = [rooms.file_of(name) for name in rooms.rooms().names]
    there = {
        f'{one.name}/' if one.is_dir() else one.name
        for one in PACKAGE.iterdir()
        if one.suffix == '.py' or (one / '__init__.py').exists()
    }
    entries = {'__init__.py', '__main__.py', 'paster.py'}
    assert set(files) == there - entries
    page = (DOCS / 'architecture.md').read_text()
    assert re.findall(r'^\| `([\w/.]+)` \|', page, re.M) == files
    for entry in rooms.rooms().entries:
        assert f'(../paste_wspbus/{rooms.file_of(entry)})' in page


@pytest.mark.parametrize('room', ['command', 'workers', 'process', 'servers'])
def test_each_file_of_the_largest_rooms_stands_under_one_subject(room):
    page = (DOCS / 'architecture.md').read_text()
    table = page.partition(f'| in {room}/ | files |')[2].partition('\n\n')[0]
    listed = re.findall(r'\[\w+\]\(\.\./(\S+)\)', table)
    there = [name_of(one) for one in (PACKAGE / room).glob('*.py')]
    assert sorted(listed) == sorted(one for one in there if '__init__' not in one)


@pytest.mark.parametrize('path', MODULES, ids=name_of)
def test_every_module_says_first_what_it_owns(path):
    said = ast.get_docstring(ast.parse(path.read_text()))
    assert said, 'there is no docstring'
    first = said.splitlines()[0]
    assert first.endswith('.'), first


# -- signals -------------------------------------------------------------------------


@pytest.mark.parametrize('name', [*DEFAULTS, *SIGNALS])
def test_every_signal_is_on_the_page_of_the_signals(name):
    text = (DOCS / 'signals.md').read_text()
    assert re.search(rf'^\| .*\b{name}\b.* \|', text, re.M)


# -- sizes ---------------------------------------------------------------------------

#: The guides of CONTRIBUTING.md, in lines.
CLASS, FUNCTION, FILE = 400, 50, 600


def exceptions():
    """{what: lines} from the section "Sizes" of docs/decisions.md."""
    text = (DOCS / 'decisions.md').read_text()
    section = re.search(r'^## Sizes\n(.*?)^## ', text, re.M | re.S)[1]
    rows = re.findall(r'^\| \[`?([\w./]+)`?\]\([^)]*\) \| (\d+) \|', section, re.M)
    return {name: int(lines) for name, lines in rows}


def larger_than_the_guides():
    for path in MODULES:
        text = path.read_text()
        if (lines := text.count('\n')) > FILE:
            yield path.relative_to(PACKAGE).as_posix(), lines
        for node in ast.walk(ast.parse(text)):
            is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            if is_function or isinstance(node, ast.ClassDef):
                lines = node.end_lineno - node.lineno + 1
                if lines > (FUNCTION if is_function else CLASS):
                    yield node.name, lines


def test_what_is_larger_than_the_guides_has_a_reason():
    found, allowed = dict(larger_than_the_guides()), exceptions()
    assert found.keys() == allowed.keys()
    assert {name: lines for name, lines in found.items() if lines > allowed[name]} == {}
