"""A real Kubernetes on one machine: the genuine programs, built here, in a network namespace of their own.

For tests and benches of what runs on a cluster, and for trying the chart out; never a place for other people's work.
Two shapes: ``fleet`` (simulated nodes, for scale) and ``node`` (one real kubelet, for boxes that run).
"""
