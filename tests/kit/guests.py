"""Applications that are searched for frameworks, without a site around them."""


class Log(list):
    def __call__(self, message, level=20):
        self.append((level, message))


class Wrapper:
    """A middleware that keeps its application under one name."""

    def __init__(self, **inside):
        self.__dict__.update(inside)

    def __call__(self, environ, start_response):
        raise AssertionError('The search calls nothing')


def leaf(environ, start_response):
    raise AssertionError('The search calls nothing')
