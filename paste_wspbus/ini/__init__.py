"""The .ini file: reading it, checking it, and composing the site from it."""
