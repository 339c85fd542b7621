"""docs/timeline.md: its examples are what the commands print of its site."""

import re

import pytest

from tests.kit import run
from tests.kit.places import DOCS

PAGE = (DOCS / 'timeline.md').read_text()
BLOCKS = re.findall(r'```(\w*)\n(.*?)```', PAGE, re.S)
INI, SHOP, _ = (text.partition('\n')[2] for kind, text in BLOCKS if kind)
PLAN, BLAME, LOAD = (text for kind, text in BLOCKS if not kind)


@pytest.fixture
def ask(tmp_path):
    files = {'site.ini': INI, 'shop.py': f'# shop.py\n{SHOP}'}

    def ask(*words):
        told = run(tmp_path, 'site.ini', *words, files=files)
        assert told.code == 0, told.report()
        return told.out.text

    return ask


def test_the_plan_is_that_of_the_site(ask):
    assert ask('plan') == PLAN


def test_the_imports_have_the_form_of_the_example(ask):
    form = r'The load of the site took \d+ ms:\n'
    form += r"( +\d+\.\d ms  (import|factory)  ?[\w' \[\]:.-]+( \(\d+ modules?\))?\n)+"
    form += r'(  \d+ more took less than 1 ms each \(-v shows them\)\n)?'
    assert re.fullmatch(form, LOAD)
    assert re.fullmatch(form, ask('blame', '--load'))
