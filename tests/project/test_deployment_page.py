"""docs/deployment.svg: what its program draws of a run."""

import importlib.util
import sys
from xml.etree import ElementTree

from tests.kit.places import DOCS


def load_program():
    sys.path.insert(0, str(DOCS))
    try:
        spec = importlib.util.spec_from_file_location(
            'deployment', DOCS / 'deployment.py'
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(DOCS))
    return module


program = load_program()


def texts(picture):
    return [one.text for one in ElementTree.fromstring(picture).iter() if one.text]


def test_the_picture_has_what_the_clients_and_the_commands_got():
    answers = [
        program.Answer(1.0, 1.1, 'v1 17', False),
        program.Answer(1.1, 1.2, 'refused', True),
        program.Answer(1.2, 2.5, 'v2 18', False),
    ]
    commands = [
        program.Command(1.1, 1.3, 1, 'It failed: ValueError: no'),
        program.Command(1.5, 2.0, 0, 'Generation 3 serves.'),
    ]
    found = texts(program.draw(answers, commands))
    assert '3 requests of 4 clients, 1 failed' in found
    assert 'graceful, exit code 1: It failed' in found
    assert {'v1, process 17', 'v2, process 18', 'failed'} <= set(found)


def test_no_request_fails_in_the_picture_of_the_page():
    found = texts((DOCS / 'deployment.svg').read_text())
    assert any(text.endswith(' requests of 4 clients, 0 failed') for text in found)
    assert [text for text in found if text.startswith('graceful, exit code 1: ')]
    assert [text for text in found if text.startswith('graceful, exit code 0: ')]
