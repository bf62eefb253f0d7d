"""checkpoint and restore, by CRIU."""
