"""One vLLM process: settings → argv, its life and its failures explained; the plugin inside it; the Python client."""
