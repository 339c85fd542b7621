"""The .ini file: this room reads it, checks it, and composes the site from it."""
