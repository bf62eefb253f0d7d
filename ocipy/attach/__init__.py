"""What is given to a container beside its plan: network devices, and the seccomp agent that answers for it."""
