"""Samplers of several hosts as `Sampler`s."""
