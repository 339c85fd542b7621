"""Which names a new package may have."""

import pytest

from paste_wspbus.errors import UsageError
from paste_wspbus.templates.names import package_of


@pytest.mark.parametrize(
    'name, package',
    [
        ('acme', 'acme'),
        ('Acme-Cache', 'acme_cache'),
        ('acme.cache', 'acme_cache'),
        ('acme__cache-2', 'acme_cache_2'),
        ('match', 'match'),  # a word of Python only where it is none
    ],
)
def test_the_package_is_named_after_the_distribution(name, package):
    assert package_of(name) == package


@pytest.mark.parametrize(
    'name, why',
    [
        ('', 'no name of a distribution'),
        ('a b', 'no name of a distribution'),
        ('../acme', 'no name of a distribution'),
        ('-acme', 'no name of a distribution'),
        ('acmé', 'no name of a distribution'),
        ('acme\n', 'no name of a distribution'),
        ('9lives', 'begins with a digit'),
        ('class', 'a keyword'),
        ('None', 'a keyword'),
        ('json', 'standard library'),
        ('JSON', 'standard library'),
        ('tests', 'itself'),
        ('paste-wspbus', 'itself'),
        ('WebOb', 'installed already'),
        ('signals', 'default plugin'),
    ],
)
def test_other_names_are_refused(name, why):
    with pytest.raises(UsageError, match=why):
        package_of(name)
