"""What workers have counted, as clients count it: over graceful restarts and SIGKILL."""

import os
import signal
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.kit import Site, eventually, run
from tests.kit.clients import Connection

INI = """
[composite:main]
use = egg:Paste#urlmap
/ = shop
/metrics = metrics

[app:shop]
use = call:shop:make

[app:metrics]
use = egg:paste_wspbus#metrics

[server:main]
use = {server}
host = 127.0.0.1
port = 0

[wspbus:main]
soak = 0
"""

SHOP = """
import os

from prometheus_client import Counter

ITEMS = Counter('items', 'Items that were sold')


def make(conf):
    return app


def app(environ, start_response):
    ITEMS.inc()
    body, path = f'{os.getpid()}.'.encode(), environ['PATH_INFO']
    headers = [('Content-Type', 'text/plain')]
    if path != '/chunks':
        headers.append(('Content-Length', str(len(body))))
    start_response('200 OK', headers)
    return [body] if path == '/' else iter([body[:2], body[2:]])
"""

WORKERS = 'workers = 2\nsite_metrics = multiprocess\n'


class Shop(Site):
    def __init__(self, folder, more='', server='egg:waitress', shop=SHOP, **kwargs):
        ini = INI.format(server=server) + more
        super().__init__(folder, ini, files={'shop.py': shop}, **kwargs)

    def worker(self):
        """Return the process ID of a worker."""
        return int(self.get().body.rstrip(b'.'))

    def metrics(self):
        """Return {name: the sum of its samples}, without the requests of this page."""
        text = self.get('/metrics').body.decode()
        found = {}
        for family in text_string_to_metric_families(text):
            for one in family.samples:
                if one.labels.get('route') != '/metrics':
                    found[one.name] = found.get(one.name, 0) + one.value
        return found


class Buyers:
    """Clients that count what they ask for, and what is answered."""

    def __init__(self, site, count=6):
        self.site, self.asked, self.answered = site, 0, 0
        self.last = 0.0
        self._over, self._lock = threading.Event(), threading.Lock()
        self._threads = [
            threading.Thread(target=self._buy, args=(number,))
            for number in range(count)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _buy(self, number):
        path = ('/', '/stream', '/chunks')[number % 3]
        while not self._over.is_set():
            with self._lock:
                self.asked += 1
            try:
                with Connection(self.site.address) as connection:
                    response = connection.get(path, connection='close')
            except (OSError, EOFError, ValueError, AssertionError, IndexError):
                continue
            # Without one of these, the end of a process that was killed ends the body, too.
            if {'content-length', 'transfer-encoding'} & {*response.headers}:
                with self._lock:
                    self.answered += response.body.endswith(b'.')  # the whole of it


@pytest.mark.parametrize(
    ('more', 'server'),
    [
        ('', 'egg:waitress'),
        ('preload = true\n', 'egg:paste_wspbus#cheroot'),
        ('restart = child\n', 'egg:Paste#http'),
    ],
)
def test_clients_and_metrics_agree_over_graceful_restarts_and_kills(
    tmp_path, more, server
):
    with Shop(tmp_path, WORKERS + more, server) as site:
        seen = []

        def look():
            seen.append(site.metrics()['wspbus_requests_total'])

        with Buyers(site) as buyers:
            for _ in range(2):
                before = buyers.answered
                eventually(lambda: buyers.answered > before + 20)  # noqa: B023
                os.kill(site.worker(), signal.SIGKILL)
                look()
                before = site.out.text.count('Generation ')
                site.send(signal.SIGHUP)
                eventually(lambda: site.out.text.count('Generation ') > before)  # noqa: B023
                look()
        found = site.metrics()
        # This test itself has asked for the PID twice.
        asked, answered = buyers.asked + 2, buyers.answered + 2
        for name in (
            'wspbus_requests_total',
            'wspbus_request_duration_seconds_count',
            'items_total',
        ):
            assert answered <= found[name] <= asked, (name, found)
        assert seen == sorted(seen)
        folder = os.path.dirname(metrics_file(site))
        code, *_ = site.stop()
        assert code == 0, site.report()
        assert not os.path.exists(folder)


def metrics_file(site):
    """Return the path of a file that prometheus_client has made in a worker."""
    pid = site.worker()
    links = (f'/proc/{pid}/fd/{fd}' for fd in os.listdir(f'/proc/{pid}/fd'))
    return next(path for path in map(os.readlink, links) if path.endswith('.db'))


def test_one_process_counts_and_says_what_it_does(tmp_path):
    with Shop(tmp_path) as site:
        for _ in range(3):
            site.get('/')
        found = site.metrics()
        assert found['wspbus_requests_total'] == 3
        assert found['wspbus_requests_in_flight'] >= 1  # that for this page
        assert found['wspbus_threads'] == 4


def test_site_metrics_does_nothing_without_workers_and_says_so(tmp_path):
    with Shop(tmp_path, 'site_metrics = multiprocess\n') as site:
        assert 'items_total' not in site.metrics()
        assert 'site_metrics does nothing without workers' in site.err.text


def test_the_folder_of_the_environment_is_used_and_stays(tmp_path):
    folder = tmp_path / 'own' / 'folder'
    env = {**os.environ, 'PROMETHEUS_MULTIPROC_DIR': str(folder)}
    with Shop(tmp_path, WORKERS, env=env) as site:
        assert metrics_file(site).startswith(f'{folder}/')
        assert site.stop()[0] == 0
    assert any(one.suffix == '.db' for one in folder.iterdir())


@pytest.mark.parametrize(
    ('env', 'why'),
    [
        ({'PROMETHEUS_MULTIPROC_DIR': '/dev/null'}, ': File exists (PROM'),
        ({'RUNTIME_DIRECTORY': '/none'}, 'directory (RUNTIME_DIRECTORY is /none)'),
    ],
)
def test_without_a_folder_the_site_does_not_start(tmp_path, env, why):
    env = {**os.environ, **env}
    with Shop(tmp_path, WORKERS, env=env, wait=False) as site:
        assert site.wait() == 1
        said = (
            '[wspbus:main] site_metrics: there is no folder for the metrics of the site'
        )
        assert said in site.err.text and why in site.err.text
        assert 'Traceback' not in site.err.text


def test_without_the_library_one_line_says_how_to_get_it(tmp_path):
    (tmp_path / 'sitecustomize.py').write_text(
        'import sys\nsys.modules["prometheus_client"] = None\n'
    )
    (tmp_path / 'usual.ini').write_text(
        '[app:main]\nuse = egg:paste_wspbus#hello\n'
        '[server:main]\nuse = egg:waitress\nport = 0\nhost = 127.0.0.1\n'
        '[wspbus:main]\nworkers = 1\nsite_metrics = multiprocess\n'
    )
    env = {**os.environ, 'PYTHONPATH': str(tmp_path)}
    line = (
        'usual.ini [wspbus:main] site_metrics: it needs prometheus_client: '
        "pip install 'paste_wspbus[metrics]'\n"
    )
    with Site(tmp_path, None, 'usual.ini', env=env, wait=False) as site:
        assert (site.wait(), site.err.text) == (2, line)
    checked = run(tmp_path, '--check', 'usual.ini', env=env)
    assert (checked.code, checked.err.text) == (2, line)


#: It closes what does not belong to it, as a daemon does.
CLOSES = """
for fd in os.listdir('/proc/self/fd'):
    path = f'/proc/self/fd/{fd}'
    if os.path.islink(path) and 'wspbus ledger' in os.readlink(path):
        os.close(int(fd))
"""


@pytest.mark.skipif(not hasattr(os, 'memfd_create'), reason='Linux')
def test_a_worker_that_cannot_count_says_so_and_serves(tmp_path):
    with Shop(tmp_path, 'workers = 1\n', shop=SHOP + CLOSES) as site:
        assert site.worker()
        line = 'The requests of this process are missing in the metrics'
        assert site.err.wait_for(line), site.report()
        assert site.stop()[0] == 0
