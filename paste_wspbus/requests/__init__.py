"""What the bus sees of a request: the filter around the application."""
