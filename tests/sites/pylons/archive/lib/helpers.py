"""Helper functions, available to templates as 'h'."""

from webhelpers.html.tags import link_to

__all__ = ['link_to']
