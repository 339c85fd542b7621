"""What CI installs: a version of each requirement, in .ci/requirements/; hashes of most."""

import os
import re
import subprocess
from configparser import ConfigParser

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOMS
from tests.environments import RECIPES, of_file
from tests.environments import pins as constraints
from tests.kit.places import ROOT

PINS = ROOT / '.ci/requirements'


def requirements(extra=None):
    config = ConfigParser()
    config.read(ROOT / 'setup.cfg')
    lines = config['options']['install_requires'].splitlines()
    if extra:
        lines += config['options.extras_require'][extra].splitlines()
    lines = [line.strip() for line in lines]
    return [Requirement(line) for line in lines if line and line[0] != '#']


def pins(extra):
    """Return the versions of each distribution; fail if one has no hash."""
    found = {}
    entries = re.split(r'\n(?=\S)', (PINS / f'{extra}.txt').read_text())
    for entry in entries:
        first, *hashes = entry.replace('\\\n', '\n').strip().splitlines()
        name, version = re.fullmatch(r'(\S+)==(\S+)( ;.*)?\s*', first).group(1, 2)
        assert hashes and all('--hash=sha256:' in one for one in hashes), name
        found.setdefault(canonicalize_name(name), []).append(version)
    return found


@pytest.mark.parametrize('extra', ['test', 'lint', 'docs', 'dist'])
def test_ci_has_a_version_of_each_requirement(extra):
    known = pins(extra)
    for asked in requirements(extra):
        versions = known.get(canonicalize_name(asked.name), [])
        assert versions, f'{asked}: run make pins'
        assert all(one in asked.specifier for one in versions), (
            f'{asked}: run make pins'
        )


@pytest.mark.parametrize('name', RECIPES)
def test_an_environment_has_a_version_of_each_requirement(name):
    known = {}
    for line in constraints(name).read_text().splitlines():
        pinned = Requirement(line)
        known.setdefault(canonicalize_name(pinned.name), []).append(pinned.specifier)
    asked = [*RECIPES[name].requirements, *RECIPES[name].by_script]
    for one in [*map(Requirement, asked), *requirements()]:
        found = known.get(canonicalize_name(one.name), [])
        assert found, f'{one}: run make pins'
        versions = [str(pin).removeprefix('==') for pin in found]
        assert all(version in one.specifier for version in versions), (
            f'{one}: run make pins'
        )


def test_a_file_is_left_out_where_its_environment_cannot_be():
    used = [
        (path, name)
        for room in ROOMS
        for path in (ROOT / 'tests' / room).glob('test_*.py')
        for name in re.findall(r"\benvironment\('(\S+?)'\)", path.read_text())
    ]
    assert len(used) > 10
    assert [(path, name) for path, name in used if of_file(path) != name] == []


def test_the_pins_name_no_address():
    for path in PINS.rglob('*.txt'):
        assert '//' not in path.read_text()


@pytest.mark.parametrize(
    'words, said',
    [
        (['serve'], " --editable '.'\n"),
        (['serve', 'PINNED=1'], " --editable '.'\n"),
        (['test'], " --editable '.[test]'\n"),
        (['bench', 'PINNED=1'], " --editable '.[test,bench]'\n"),
        (
            ['test', 'PINNED=1'],
            '--require-hashes --requirement .ci/requirements/test.txt',
        ),
        (['test', 'PINNED=1'], '--no-deps --no-build-isolation --editable'),
    ],
)
def test_what_a_target_installs(tmp_path, words, said):
    env = {k: v for k, v in os.environ.items() if k not in ('PINNED', 'MAKEFLAGS')}
    words = ['make', '-n', *words, f'VENV={tmp_path}/venv']
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
    assert said in done.stdout, done.stdout + done.stderr
