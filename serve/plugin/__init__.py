"""vLLM's endpoint plugin: routes over hidden states and health, the journal of requests, their telemetry."""
