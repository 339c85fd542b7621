"""The quick form of `tests.attacks.chaos`: random faults, and a site that still answers."""

from tests.attacks.chaos import Chaos


def test_faults_under_load_cost_what_was_killed_alone(tmp_path):
    chaos = Chaos(tmp_path, minutes=1 / 6, seed=1)
    chaos.run()
    assert not chaos.wrong, '\n'.join(chaos.wrong)
    assert chaos.load.count
