"""The control socket, beside the PID file: where it is, who answers there, how to ask."""

#: Of the protocol: one line of JSON each way.
VERSION = 1
