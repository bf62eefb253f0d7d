"""The command line, as runc's: one module per command or family of them, over the library."""
