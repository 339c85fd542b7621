"""What the other machines see of this one."""

from types import SimpleNamespace

import pytest

from paste_wspbus.bus import State
from paste_wspbus.cluster.facts import Release
from paste_wspbus.cluster.settings import Settings
from paste_wspbus.role import CLUSTER
from paste_wspbus.workers.cluster_shown import Shown


@pytest.fixture
def site():
    bus = SimpleNamespace(state=State.STARTED, drained=False)
    plan = SimpleNamespace(release=Release('41', '1.0'), cluster_plugins=('job',))
    return SimpleNamespace(
        bus=bus,
        plan=plan,
        generation=1,
        latest=1,
        current={},
        is_renewing=False,
        count=2,
        serving=lambda: ['worker 1'],
    )


@pytest.fixture
def sent(site):
    """What it has sent; ``look`` lets it look."""
    events, sent = SimpleNamespace(before_sleep=[]), []
    settings = Settings('', 'shop', 'web1', 10)
    cluster = SimpleNamespace(
        supervisor=site, events=events, settings=settings, record=sent.append
    )
    shown = Shown(cluster, 1000.0)
    (look,) = events.before_sleep
    return SimpleNamespace(sent=sent, look=look, forget=shown.forget)


def test_it_is_sent_when_it_has_changed_and_to_a_new_agent(site, sent):
    sent.look()
    sent.look()
    assert sent.sent == [
        {
            'release': '41',
            'version': '1.0',
            'generation': 1,
            'state': 'STARTED',
            'renewing': False,
            'drained': False,
            'serving': 1,
            'wanted': 2,
            'since': 1000.0,
            'ttl': 10,
            'leads': [],
        }
    ]
    site.bus.drained = True
    sent.look()
    assert sent.sent[-1]['drained'] is True
    sent.forget()
    sent.look()
    assert len(sent.sent) == 3


def test_the_release_is_that_of_the_generation_that_serves(site, sent):
    sent.look()
    site.latest, site.plan.release = 2, Release('42', '2.0')  # a graceful restart
    sent.look()
    assert sent.sent[-1]['release'] == '41'
    site.plan.release = Release('41', '1.0')  # it has failed
    sent.look()
    site.latest, site.plan.release = 3, Release('43', '3.0')
    sent.look()
    assert sent.sent[-1]['release'] == '41'
    site.generation = 3
    sent.look()
    assert (sent.sent[-1]['release'], sent.sent[-1]['version']) == ('43', '3.0')


def test_it_leads_while_the_process_of_the_plugins_is_ready(site, sent):
    process = SimpleNamespace(is_ready=False, leaving=False)
    site.current[CLUSTER] = process
    sent.look()
    process.is_ready = True
    sent.look()
    process.leaving = True
    sent.look()
    assert [one['leads'] for one in sent.sent] == [[], ['job'], []]
