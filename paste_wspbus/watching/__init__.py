"""The files of a site, and the ways to learn that they have changed."""
