"""The page that Prometheus reads, as Prometheus' own parsers read it."""

import os

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as read_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as read_text

from paste_wspbus.metrics import page
from paste_wspbus.metrics.families import FAMILIES
from paste_wspbus.metrics.page import metrics_page
from paste_wspbus.requests.ledger import Ledger
from tests.kit.places import DOCS
from tests.metrics.test_site import write

NASTY = '/a"\\\n{x="1"}'
OPENMETRICS = 'application/openmetrics-text; version=1.0.0'

STATUS = {
    'in_flight': 3,
    'queued': None,
    'server_threads': 8,
    'busy': 2,
    'slow_requests': 1,
    'overdue_requests': 0,
    'generation': 4,
    'serving': 2,
    'wanted': 2,
    'replaced': {'crash': 2, 'graceful': 6},
    'workers': [
        {'name': 'worker 1', 'rss': 1 << 20},
        {'name': 'worker 2', 'rss': None},
    ],
}


def counted():
    ledger = Ledger()
    ledger.count('GET', '200 OK', '/item/{id}', 0.02)
    ledger.count('GET', '200 OK', '/item/{id}', 0.5)
    ledger.count('GET', '500 Error', '/item/{id}', 100.0)
    ledger.count('GET', '200 OK', NASTY, 0.001)
    ledger.note_start('pool', 0.25)
    return ledger.read()


def samples(found, read=read_text):
    """Return {(name, labels): value} of a page."""
    return {
        (one.name, *sorted(one.labels.items())): one.value
        for family in read(found.body.decode())
        for one in family.samples
    }


@pytest.mark.parametrize(
    ('accept', 'read'),
    [('', read_text), ('*/*', read_text), (OPENMETRICS, read_openmetrics)],
)
def test_prometheus_reads_the_page_in_both_formats(accept, read):
    found = metrics_page(counted(), STATUS, accept=accept)
    assert found.status == 200
    assert found.content_type.startswith(accept.partition(';')[0].strip('*/') or 'text')
    read = samples(found, read)
    item = ('method', 'GET'), ('route', '/item/{id}')
    assert read['wspbus_requests_total', *item, ('status', '2xx')] == 2
    assert read['wspbus_requests_total', *item, ('status', '5xx')] == 1
    nasty = ('method', 'GET'), ('route', NASTY), ('status', '2xx')
    assert read['wspbus_requests_total', *nasty] == 1
    assert read['wspbus_threads_busy',] == 2
    assert read['wspbus_restarts_total', ('reason', 'crash')] == 2
    memory = read['wspbus_resident_memory_bytes', ('process', 'worker 1')]
    assert memory == 1 << 20


@pytest.mark.parametrize(
    ('accept', 'read'), [('', read_text), (OPENMETRICS, read_openmetrics)]
)
def test_bytes_that_are_not_utf_8_keep_no_other_number_from_the_page(
    tmp_path, accept, read
):
    write(str(tmp_path), 'gauge_sum', os.getpid(), 3, 'items', shop='caf\udce9')
    found = metrics_page(counted(), STATUS, str(tmp_path), accept)
    read = samples(found, read)
    assert read['items', ('shop', 'caf\\udce9')] == 3
    assert read['wspbus_threads_busy',] == 2


def test_a_histogram_has_the_requests_of_all_statuses():
    read = samples(metrics_page(counted(), {}))
    name = 'wspbus_request_duration_seconds'
    item = ('method', 'GET'), ('route', '/item/{id}')

    def below(limit):
        return read[f'{name}_bucket', ('le', limit), *item]

    limits = '0.01', '0.025', '0.25', '0.5', '60.0', '+Inf'
    assert [below(limit) for limit in limits] == [0, 1, 1, 2, 2, 3]
    assert read[f'{name}_count', *item] == 3
    assert read[f'{name}_sum', *item] == pytest.approx(100.52)
    started = read['wspbus_start_duration_seconds_sum', ('component', 'pool')]
    assert started == 0.25


def test_a_site_of_a_cluster_says_what_it_knows_of_that():
    cluster = {
        **{'members': 3, 'plugins': ['job'], 'holds': True, 'last_word': 1.5},
        **{'round_trip': 0.001, 'messages': {'dropped': 4}},
        'roll': {'state': 'ended', 'text': 'web2 has failed.'},
    }
    found = samples(metrics_page({}, {'cluster': cluster}))
    told = {name: value for (name, *_), value in found.items() if '_cluster_' in name}
    assert told == {
        'wspbus_cluster_members': 3,
        'wspbus_cluster_leader': 1,
        'wspbus_cluster_last_word_seconds': 1.5,
        'wspbus_cluster_round_trip_seconds': 0.001,
        'wspbus_cluster_roll_failed': 1,
        'wspbus_cluster_messages_dropped_total': 4,
    }
    for roll in (
        {'state': 'rolls', 'text': 'web1 rolls.'},
        {'state': 'ended', 'text': ''},
    ):
        page = metrics_page({}, {'cluster': {**cluster, 'roll': roll}})
        assert samples(page)['wspbus_cluster_roll_failed',] == 0
    nothing = {'members': None, 'plugins': [], 'holds': False, 'roll': None}
    for unknown in ({'cluster': None}, {'cluster': nothing}, {}):
        assert '_cluster_' not in metrics_page({}, unknown).body.decode()


def test_what_is_not_known_is_missing():
    read = samples(metrics_page(counted(), STATUS))
    assert not any(name == 'wspbus_requests_queued' for name, *_ in read)
    workers = ('process', 'worker 2')
    assert ('wspbus_resident_memory_bytes', workers) not in read


@pytest.mark.parametrize('accept', ['application/openmetrics-text; version=x', '\n'])
def test_a_header_of_nonsense_gets_the_usual_format(accept):
    assert metrics_page({}, {}, accept=accept).status == 200


def test_without_the_library_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(page, 'find_spec', lambda name: None)
    found = metrics_page({}, {})
    assert found.status == 501
    assert found.body == (
        b"/metrics needs prometheus_client: pip install 'paste_wspbus[metrics]'\n"
    )


def documented():
    """Yield (name, type, labels, help) from the table of the page."""
    for line in (DOCS / 'metrics.md').read_text().splitlines():
        if line.startswith('| `wspbus_'):
            name, kind, labels, text = (one.strip() for one in line.split('|')[1:-1])
            yield name.strip('`'), kind, labels.replace('`', ''), text


def test_the_table_of_the_page_has_each_metric():
    def name_of(family):
        total = '_total' if family.kind == 'counter' else ''
        return f'wspbus_{family.name}{total}'

    assert list(documented()) == [
        (name_of(one), one.kind, ', '.join(one.labels), one.help) for one in FAMILIES
    ]
