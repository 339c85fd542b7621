"""The control socket: where it is, how a site answers there, and how to ask."""

#: The version of the protocol: the request and the answer are one line of JSON each.
VERSION = 1
