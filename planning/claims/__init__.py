"""What others say about cost, speed and size, held against what follows from their own inputs."""
