"""One vLLM server as an engine under our control: settings → argv, start, stop, what its log says, why it failed."""
