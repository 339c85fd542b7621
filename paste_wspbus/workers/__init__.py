"""A supervisor, and the processes that it looks after."""
