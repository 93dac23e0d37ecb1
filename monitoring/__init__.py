"""What a server and its machine say about themselves: metrics, memory, GPU."""
