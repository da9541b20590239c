"""Numbers published in the paper."""
