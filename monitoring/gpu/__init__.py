"""GPUs by NVML: readings, collected by threads of their own, served as a page for Prometheus."""
