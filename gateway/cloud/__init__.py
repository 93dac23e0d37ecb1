"""The door to clouds, a process of its own: asks providers with our key, counts what that costs, keeps limits."""
