"""Processes owned as a whole, under a warden that leaves nothing behind; their ports, logs and GPU memory."""
