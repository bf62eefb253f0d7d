"""What makes commands start fast: the packed interpreter, and what the launcher does without one."""
