"""The kernel's interfaces, and small parts of the standard library that load fast. It knows nothing of containers."""
