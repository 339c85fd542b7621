"""What the configuration of another server says, as sections of an .ini."""
