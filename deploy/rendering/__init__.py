"""Deployment files from measured figures: what a run says, and where it stands in compose and Kubernetes."""
