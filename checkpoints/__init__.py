"""Model directories: the embedded demo model, weight-less architectures, quantized copies, downloads."""
