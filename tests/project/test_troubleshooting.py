"""docs/troubleshooting.md has each message that a user can meet: see `said`."""

import ast
import functools
import re

import pytest

from paste_wspbus.listening import sockets
from tests.kit.places import DOCS
from tests.project.said import ANY, PACKAGE, errors, messages, modules

PAGE = (DOCS / 'troubleshooting.md').read_text()


def entries():
    """The messages of the page: what stands in code font in the first cell of a row."""
    for cell in re.findall(r'^\| (`.*?) \| ', PAGE, re.M):
        yield from re.findall(r'`([^`]+)`', cell)


#: An entry with fewer letters is that message alone, and covers no others.
GENERAL = 12


@functools.cache
def covering():
    """One pattern for all entries: … of a long one stands for words of the code, too."""
    return re.compile('|'.join(map(as_pattern, entries())))


def as_pattern(entry):
    rest = '.*' if letters(entry) >= GENERAL else f'{ANY}*'
    return rest.join(map(re.escape, entry.split(ANY)))


def letters(entry):
    return len(re.sub(r'[\W\d_]', '', entry))


def test_each_message_of_the_code_is_on_the_page():
    known = covering()
    said = sorted(messages())
    lacking = [one for one in said if not known.fullmatch(one.pattern.rstrip('.'))]
    assert lacking == [], 'docs/troubleshooting.md lacks these, with cause and cure'
    assert len(messages()) > 350


def test_each_reason_why_a_port_cannot_be_had_is_on_the_page():
    assert [one for one in sockets._REASONS.values() if one not in PAGE] == []


def test_each_entry_is_said_by_the_code():
    texts = {' '.join(text.split()) for text in constants()}
    texts |= {one.pattern for one in messages()}
    for entry in entries():
        for part in entry.split(ANY):
            words = part.strip(' .:;,()')
            assert any(words in text for text in texts), (entry, words)


def constants():
    """All texts of the package; what stands between the fields of one is joined."""
    for tree in modules().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_a_general_entry_does_not_cover_other_messages():
    known = covering()
    assert known.fullmatch('… is not ……')
    assert not known.fullmatch('… is not what this machine has')
    assert not known.fullmatch('the frobnicator failed: it has no oil')


def test_each_row_has_a_cause_and_a_cure():
    rows = re.findall(r'^\| `.*\|$', PAGE, re.M)
    assert len(rows) > 100
    for row in rows:
        cells = [one.strip() for one in row.strip('|').split(' | ')]
        assert len(cells) == 3 and all(cells), row


@pytest.mark.parametrize(
    'name', ['ConfigError', 'AlreadyRunning', 'StartFailed', 'SettingError']
)
def test_errors_are_found_by_their_bases(name):
    assert name in errors()


def test_texts_are_found_through_variables_and_constants():
    said = {one.pattern for one in messages()}
    assert 'The site stopped before it was started' in said  # a constant of the module
    # The code says problem = …, then ConfigError(problem).
    assert 'the plugin … is listed twice' in said
    assert 'The HTTP server failed: this process stops' in said  # level=50
    assert PACKAGE.is_dir()
