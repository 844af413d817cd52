"""Measurements that anyone can run; each prints a table beside its peers."""
