"""The ledger: what each process counts in its page, and the sums over all of them."""

import contextlib
import os
import signal
import threading

import pytest

from paste_wspbus.requests import ledger
from paste_wspbus.requests.ledger import Book, Ledger, Series

HOME = Series('GET', '2xx', '/')


@pytest.fixture
def book():
    book = Book()
    book.open()
    yield book
    os.close(book.fd)


def on_page(book, page):
    """Return a ledger on a page of a book."""
    book.use(page)
    one = Ledger()
    assert one.attach(book.fd, page)
    return one


def counts(found):
    """Return {series: number of requests} of what `Ledger.read` or `Book.read` returns."""
    return {series: sum(numbers[:-1]) for series, numbers in found.items()}


def in_child(function):
    """Run a function in a forked child, which then ends as by SIGKILL."""
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            function()
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


def test_requests_are_counted_by_method_class_and_route():
    one = Ledger()
    for status in ('200 OK', '204 No Content', '404 Not Found'):
        one.count('GET', status, '/', 0.002)
    assert counts(one.read()) == {HOME: 2, Series('GET', '4xx', '/'): 1}


def test_the_time_of_a_request_is_in_its_bucket_and_in_the_sum():
    one = Ledger()
    for seconds in (0.0, 0.001, 0.0011, 60, 1000):
        one.count('GET', '200 OK', '/', seconds)
    *buckets, nanoseconds = one.read()[HOME]
    assert (buckets[0], buckets[1], buckets[-2], buckets[-1]) == (2, 1, 1, 1)
    assert nanoseconds == pytest.approx(1060.0021e9)


def test_unknown_methods_and_nonsense_statuses_are_other():
    one = Ledger()
    one.count('BREW', '999 What', '/', 0)
    one.count('GET\n', '', '/', 0)
    assert counts(one.read()) == {Series('other', 'other', '/'): 2}


def test_a_long_route_is_cut_and_bytes_of_a_path_are_text():
    one = Ledger()
    one.count('GET', '200', '/' + 'ä'.encode().decode('latin-1') * 200, 0)
    one.count('GET', '200', '/a\0b\udcff', 0)
    long, other = sorted(series.route for series in one.read())[::-1]
    assert long.startswith('/ää') and len(long.encode()) <= ledger.ROUTE
    assert other == '/a�b?'


def test_the_sums_have_all_pages_and_those_of_the_dead(book):
    first, second = on_page(book, 1), on_page(book, 2)
    first.count('GET', '200', '/', 1)
    second.count('GET', '200', '/', 1)
    second.count('GET', '200', '/other', 1)
    before = book.read()
    book.fold(2)
    assert book.read() == before
    assert counts(before) == {HOME: 2, Series('GET', '2xx', '/other'): 1}


def test_a_page_that_was_folded_is_empty_for_the_next_process(book):
    on_page(book, 1).count('GET', '200', '/', 1)
    book.fold(1)
    book.fold(1)
    again = on_page(book, 1)
    assert again.read() == {}
    again.count('GET', '200', '/', 1)
    assert counts(book.read()) == {HOME: 2}


def test_what_a_killed_process_has_counted_remains(book):
    def count():
        one = on_page(book, 1)
        for _ in range(100):
            one.count('GET', '200', '/', 0)

    for _ in range(3):
        in_child(count)
        book.fold(1)
    assert counts(book.read()) == {HOME: 300}


def test_a_process_that_is_killed_while_it_enters_a_series_blocks_nobody(book):
    def enter():
        one = on_page(book, 1)
        with one._exclusively():
            os.kill(os.getpid(), signal.SIGKILL)

    in_child(enter)
    other = on_page(book, 2)
    other.count('GET', '200', '/', 0)
    assert counts(book.read()) == {HOME: 1}


def test_while_another_process_holds_the_directory_requests_are_counted_all_the_same(
    book, monkeypatch
):
    monkeypatch.setattr(ledger, 'PATIENCE', 0.02)
    one = on_page(book, 1)
    one.count('GET', '200', 'other', 0)
    held, go = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException), on_page(book, 2)._exclusively():
            os.write(held[1], b'.')
            os.read(go[0], 1)
        os._exit(0)
    os.read(held[0], 1)
    one.count('GET', '200', '/', 0)
    assert counts(one.read()) == {Series('GET', '2xx', 'other'): 2}
    os.write(go[1], b'.')
    os.waitpid(pid, 0)
    one.count('GET', '200', '/', 0)
    assert counts(one.read())[HOME] == 1
    for fd in (*held, *go):
        os.close(fd)


def test_threads_lose_no_request():
    one = Ledger()

    def count():
        for _ in range(5000):
            one.count('GET', '200', '/', 0.0)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts(one.read()) == {HOME: 20_000}


def test_routes_without_end_become_other_and_it_is_told_once(book):
    one, two = on_page(book, 1), on_page(book, 2)
    for number in range(1500):
        one.count('GET', '200', f'/{number}', 0)
    assert one.overflows
    two.count('GET', '200', '/new', 0)
    two.count('POST', '302', '/new', 0)
    assert not two.overflows
    found = counts(book.read())
    assert len(found) <= ledger.ROWS
    assert sum(found.values()) == 1502
    assert found[Series('POST', '3xx', 'other')] == 1
    one.count('GET', '200', '/7', 0)
    assert counts(book.read())[Series('GET', '2xx', '/7')] == 2


def test_all_methods_and_statuses_fit_beside_routes_without_end():
    one = Ledger()
    for number in range(1500):
        one.count('GET', '200', f'/{number}', 0)
    for method in [*ledger.METHODS, 'BREW']:
        for status in '123456':
            one.count(method, status, '/new', 0)
    found = counts(one.read())
    assert found[Series('other', 'other', 'other')] == 1
    assert len(found) <= ledger.ROWS


def test_what_was_counted_before_a_process_has_its_page_is_added(book):
    book.use(1)
    one = Ledger()
    one.count('GET', '200', '/', 0)
    assert one.attach(book.fd, 1)
    one.count('GET', '200', '/', 0)
    assert counts(book.read()) == {HOME: 2}


@pytest.mark.parametrize('page', [-1, 0, 5, ledger.PAGES])
def test_a_page_that_nobody_has_given_out_is_not_used(book, page):
    assert not Ledger().attach(book.fd, page)


def test_another_file_is_no_ledger(tmp_path):
    with (tmp_path / 'file').open('w+b') as file:
        file.truncate(1 << 20)
        assert not Ledger().attach(file.fileno(), 1)
    assert not Ledger().attach(-1, 1)


def test_nonsense_that_a_process_has_written_harms_nobody(book):
    on_page(book, 1).count('GET', '200', '/', 0)
    os.pwrite(book.fd, b'\xff' * 8, 8)  # the number of series
    os.pwrite(book.fd, b'\xff' * 16, 4096 + 2 * ledger._ENTRY.size)
    assert counts(book.read()) == {HOME: 1}
    book.fold(1)
    assert counts(book.read()) == {HOME: 1}


@pytest.mark.skipif(not hasattr(os, 'memfd_create'), reason='Linux can seal a file')
def test_no_process_can_make_the_file_shorter_which_would_end_the_others(book):
    one = on_page(book, 1)
    with pytest.raises(PermissionError):
        os.truncate(book.fd, 100)
    one.count('GET', '200', '/', 0)
    assert counts(book.read()) == {HOME: 1}


def test_a_forked_child_of_a_worker_does_not_write_for_it(book):
    one = on_page(book, 1)

    def count():
        one.detach()
        one.count('GET', '200', '/', 0)

    in_child(count)
    assert book.read() == {}


def test_while_pages_are_folded_no_number_goes_down(book):
    """A reader of the same file sees each request once, whenever it reads."""
    one = on_page(book, 1)
    for _ in range(1000):
        one.count('GET', '200', '/', 0)
    ends = threading.Event()
    seen = []

    def read():
        while not ends.is_set():
            seen.append(counts(book.read()).get(HOME))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(200):
        book.fold(1)
        on_page(book, 1).count('GET', '200', '/', 0)
    ends.set()
    reader.join()
    assert seen == sorted(seen)
    assert counts(book.read()) == {HOME: 1200}
