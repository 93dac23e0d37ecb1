"""What tensors a model has: from its configuration, from the headers of its files, and as a scheme stores them."""
