"""The page that --reload serves instead of a site that does not start."""
