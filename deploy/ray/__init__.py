"""One model on a Ray cluster: a Ray Serve application with a hooked vLLM server in each of its replicas."""
