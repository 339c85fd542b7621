"""docs/wspserve.1 is what docs/man.py writes, and the sdist has it."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile

from paste_wspbus.command.arguments import SUBCOMMANDS, WITHOUT_FILE
from paste_wspbus.command.parser import make_parser
from tests.kit.places import DOCS, ROOT

PAGE = DOCS / 'wspserve.1'


def load_man():
    spec = importlib.util.spec_from_file_location('man', DOCS / 'man.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


man = load_man()


def test_the_page_is_what_the_generator_writes():
    assert PAGE.read_text() == man.page(), 'the command line has changed: run make man'


def test_each_subcommand_and_option_is_in_it():
    # \\fB is bold, \\- is a hyphen.
    bold = re.findall(r'\\fB(.+?)\\fR', PAGE.read_text().replace('\\-', '-'))
    options = make_parser('wspserve')._option_string_actions
    assert {*SUBCOMMANDS, *WITHOUT_FILE, *options} <= set(bold)


def test_no_text_is_taken_for_a_macro():
    macros = set(re.findall(r"(?m)^[.'](\S*)", PAGE.read_text()))
    assert macros == {'\\"', 'TH', 'SH', 'PP', 'TP', 'nf', 'fi', 'ad', 'nh'}
    assert man.escaped(".ini\n'a\\b'") == "\\&.ini\n\\&'a\\eb'"


BUILD = 'import setuptools.build_meta as made; print(made.build_sdist("dist"))'


def test_the_sdist_has_the_page(tmp_path):
    # A copy: other tests build in the checkout. tests/project/test_packaging.py has the wheel.
    for name in ('setup.py', 'setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / 'docs').mkdir()
    shutil.copy(PAGE, tmp_path / 'docs')
    shutil.copytree(ROOT / 'paste_wspbus', tmp_path / 'paste_wspbus')
    done = subprocess.run(
        [sys.executable, '-c', BUILD],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / 'dist' / done.stdout.splitlines()[-1]) as sdist:
        (path,) = (one for one in sdist.getnames() if one.endswith('docs/wspserve.1'))
        assert sdist.extractfile(path).read() == PAGE.read_bytes()
