"""The jobs and mules of a uWSGI .ini, as sections of plugins."""

from __future__ import annotations

import re
from typing import NamedTuple

#: The fields of a job: their name, and the numbers that they have.
FIELDS = (
    ('minute', 0, 59),
    ('hour', 0, 23),
    ('day', 1, 31),
    ('month', 1, 12),
    ('day of the week', 0, 7),
)

#: What a mule runs, if it is no file.
FUNCTION = re.compile(r'[\w.]+:\w+').fullmatch


class Job(NamedTuple):
    """A job: its cron line, and the command that uWSGI runs."""

    when: str
    command: str


def job_of(text: str) -> Job | None:
    """Read the value of ``cron``: five numbers, and a command.

    -1 stands for each number, and -N for each that N divides.

    :returns: None if it is none.
    """
    words = text.split(None, len(FIELDS))
    if len(words) <= len(FIELDS):
        return None
    *numbers, command = words
    fields = [
        _field(word, least, most)
        for word, (_, least, most) in zip(numbers, FIELDS, strict=True)
    ]
    return None if None in fields else Job(' '.join(map(str, fields)), command)


def _field(word: str, least: int, most: int) -> str | None:
    """Return a field of a cron line; None if uWSGI's number is none."""
    if not re.fullmatch(r'-?\d{1,4}', word):
        return None
    number = int(word)
    if least <= number <= most:
        return str(number)
    if number == -1:
        return '*'
    if not -most <= number < 0:
        return None
    # Of days and months, cron counts the steps from 1, uWSGI from 0.
    return f'{-number}-{most}/{-number}' if least else f'*/{-number}'
