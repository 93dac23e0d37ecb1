"""Hidden states inside vLLM: the worker reads a model's taps, cuts the rows by request; the API side asks."""
