"""Latency, throughput, memory and size of classifiers in every runtime and precision."""
