"""Pages that a reader types: each command prints what the page shows."""

import json
import re
import subprocess

import pytest

from tests.kit import run
from tests.kit.clients import free_port
from tests.kit.containers import instructions
from tests.kit.places import SAMPLES
from tests.kit.processes import BIN
from tests.kit.typed import (
    Command,
    File,
    Reader,
    check_installed,
    is_printed,
    page,
    steps,
)


@pytest.fixture
def reader(tmp_path):
    yield Reader(tmp_path, {'8080': str(free_port()), '9100': str(free_port())})
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


def test_the_tutorial_works_to_its_end(reader):
    typed = list(steps(page('docs/tutorial.md')))
    assert len([step for step in typed if isinstance(step, Command)]) > 25
    for step in typed:
        reader.type(step)


def test_the_unit_of_the_tutorial_has_the_lines_of_the_sample():
    unit = next(
        step
        for step in steps(page('docs/tutorial.md'))
        if isinstance(step, File) and step.name == 'guests.service'
    )
    sample = (SAMPLES / 'systemd/wspbus-site.service').read_text()
    sample = sample.replace('production.ini', 'site.ini')
    for old, new in [
        ('A site on a Web Site Process Bus', 'The guest book'),
        ('/srv/site', '/srv/guests'),
        ('paste_wspbus/site', 'paste_wspbus/guests'),
        ('network.target wspbus-site.socket', 'network.target'),
    ]:
        sample = sample.replace(old, new)
    lines = [line for line in unit.text.splitlines()[1:] if line]
    assert set(lines) <= set(sample.splitlines())


def test_the_dockerfile_of_the_tutorial_has_what_its_site_needs(tmp_path):
    typed = [step for step in steps(page('docs/tutorial.md')) if isinstance(step, File)]
    texts = {step.name: step.text for step in typed}
    steps_of_it = list(instructions(texts['Dockerfile']))
    said, (install, _) = dict(steps_of_it), [b for a, b in steps_of_it if a == 'RUN']
    check_installed(install.removeprefix('pip install --no-cache-dir '))
    for name in said['COPY'].split()[:-1]:
        (tmp_path / name).write_text(texts[name])
    words = json.loads(said['CMD'])
    assert words[0] == 'wspserve'
    checked = run(tmp_path, '--check', *words[1:])
    assert checked.out.text == 'site.ini: no mistakes found\n', checked.report()


def test_a_page_is_not_typed_right_if_a_line_differs():
    shown = Command('x', ['Served by … 17.', '...', 'done'])
    assert is_printed(shown.lines, ['Served by process 4.', 'more', 'done'])
    assert not is_printed(shown.lines, ['Served by process 4.', 'more', 'gone'])
