"""Memory of a model on GPUs: tensors, their sharding, the key-value cache, what remains."""
