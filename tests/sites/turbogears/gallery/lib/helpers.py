"""Helper functions, available to templates as 'h'."""


def title(text):
    return text.title()
