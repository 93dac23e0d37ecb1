"""From a laptop to a cluster: files for containers and Kubernetes, what fills them from runs, a model of scaling."""
