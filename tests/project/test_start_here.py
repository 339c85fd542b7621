"""docs/start-here.md, typed in as it is printed, does what is printed."""

import re
import socket

import pytest

from tests.kit import free_port, run
from tests.kit.places import DOCS
from tests.kit.screens import Screen

PAGE = (DOCS / 'start-here.md').read_text()


def block(language, having=''):
    """The first block of a language that has a text."""
    blocks = re.findall(r'^```(\w*)\n(.*?)^```', PAGE, re.S | re.M)
    return next(text for of, text in blocks if of == language and having in text)


@pytest.fixture
def port(tmp_path):
    """The port of the site, whose two files are in tmp_path."""
    port = str(free_port())
    # The page asks for a second terminal; here the screen says when the request is open.
    # print() writes the end of the line by itself, and another line could come between.
    asked = r"print('asked\n', end=''); time.sleep(1)"
    code = block('python').replace('time.sleep(2)', asked)
    (tmp_path / 'first.py').write_text(code)
    (tmp_path / 'first.ini').write_text(block('ini').replace('8080', port))
    return port


def test_the_site_closes_its_database_after_the_last_response(tmp_path, port):
    checked = run(tmp_path, 'first.ini', '--check')
    assert checked.out.text == block('', '--check').splitlines()[1] + '\n'
    begins, ends = block('', 'Bus STARTING'), block('', 'Bus EXITED')
    with Screen(tmp_path, 'first.ini', env={'ERRORS_ON_SCREEN': '1'}) as screen:
        screen.shows(f':{port}\r\n')
        with socket.create_connection(('127.0.0.1', int(port)), 20) as client:
            client.sendall(b'GET / HTTP/1.0\r\n\r\n')
            screen.shows('asked')
            screen.press('\x03')
            with client.makefile('rb') as answer:
                body = answer.read().decode()
        screen.ends(0)
        screen.shows('EXITED')  # the shell says the end elsewhere
    assert body.endswith(block('', 'curl').splitlines()[1] + '\n')
    said = re.sub(r'\x1b\[\d*m|\^C', '', screen.text).replace('asked\r\n', '')
    told = begins.split('\n', 1)[1] + ends
    for text in (said, told):  # only the times, the process and the port differ
        assert re.sub(r'\d+', 'N', text).split() == re.sub(r'\d+', 'N', told).split()


def test_a_database_that_cannot_be_opened_is_the_line_of_the_page(tmp_path, port):
    broken = re.search(r'Write `(sqlite3\.connect\(.*?)`', PAGE)[1]
    text = (tmp_path / 'first.py').read_text()
    (tmp_path / 'first.py').write_text(
        text.replace("sqlite3.connect('first.db'", broken)
    )
    done = run(tmp_path, 'first.ini')
    assert done.code == 1
    assert done.err.text.splitlines()[-1] == block('', 'unable to open').strip()
