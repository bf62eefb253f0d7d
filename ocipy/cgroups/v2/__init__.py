"""Control groups v2."""
