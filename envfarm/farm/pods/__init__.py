"""Boxes as Pods: pools of places kept filled, leased out, and taken back. One controller for each farm."""
