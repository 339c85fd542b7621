"""The page that --reload serves in the place of a site that does not start."""
