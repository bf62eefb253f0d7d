"""Control groups v1, and hybrid."""
