"""What is wrong with this machine, this installation, or that server, and what to do."""
