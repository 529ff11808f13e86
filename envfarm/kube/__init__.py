"""Talking to a Kubernetes API server: a client for hot paths, an informer, manifests. Knows Pods, knows no farm."""
