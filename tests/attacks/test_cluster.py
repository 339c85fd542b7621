"""The quick form of `tests.attacks.cluster`: never two at once, whatever is killed or stopped."""

from tests.attacks.cluster import Attack

#: One of each kind; the long form has all of them, in a random order.
FAULTS = ['kill supervisor', 'stop guard', 'empty engine', 'cut leader', 'kill guard']


def test_cluster_plugins_never_run_twice_at_once(tmp_path):
    attack = Attack(tmp_path, machines=2, seed=3)
    attack.run(len(FAULTS), FAULTS)
    assert not attack.wrong, '\n'.join(attack.wrong)
    assert attack.starts >= 3
    assert attack.store.count
