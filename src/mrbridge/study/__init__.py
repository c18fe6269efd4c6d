"""Reader studies: raters judge real and synthetic scans without knowing which is which."""
