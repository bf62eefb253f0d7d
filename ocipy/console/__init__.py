"""What a process is joined to outside: terminal, foreground, pidfd socket, notify socket."""
