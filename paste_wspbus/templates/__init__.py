"""Templates of packages and files, and how something is made from them."""
