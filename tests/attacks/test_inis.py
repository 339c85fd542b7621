"""The quick form of `tests.attacks.inis`: the command prints errors, but no traceback."""

from tests.attacks.inis import attack


def test_a_mutated_ini_is_served_or_refused_in_plain_words():
    wrong = attack(40, first=100)
    assert not wrong, '\n'.join(wrong)
