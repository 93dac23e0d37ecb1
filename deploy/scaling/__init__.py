"""Autoscaling as Kubernetes does it, played over a day of demand with measured replicas."""
