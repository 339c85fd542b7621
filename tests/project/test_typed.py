"""Pages that a reader types: each command prints what the page shows."""

import re
import subprocess

import pytest

from tests.kit.clients import free_port
from tests.kit.processes import BIN
from tests.kit.typed import Command, Reader, is_printed, page, steps


@pytest.fixture
def reader(tmp_path):
    reader = Reader(tmp_path, free_port())
    yield reader
    for ini in tmp_path.rglob('*.ini'):
        words = [BIN / 'wspserve', ini.name, 'stop']
        subprocess.run(words, cwd=ini.parent, capture_output=True, timeout=60)


def test_a_broken_deployment_changes_nothing_as_the_readme_shows(reader):
    text = page('README.md')
    reader.type(next(step for step in steps(text) if ' new ini ' in step.text))
    section = re.search(r'\n## A broken deployment.*?\n## ', text, re.S)[0]
    typed = list(steps(section))
    assert len(typed) == 7
    for step in typed:
        reader.type(step)


def test_a_page_is_not_typed_right_if_a_line_differs():
    shown = Command('x', ['Served by process 17.', '...', 'done'])
    assert is_printed(shown.lines, ['Served by process 4.', 'more', 'done'])
    assert not is_printed(shown.lines, ['Served by process 4.', 'more', 'gone'])
