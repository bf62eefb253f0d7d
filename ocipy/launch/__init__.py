"""Starting the init helper and talking with it: its protocol, the way into the cgroup, id maps, hooks."""
