"""Control groups that systemd makes."""
