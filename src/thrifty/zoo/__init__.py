"""Zoos: populations of trained networks on disk, their sparse twins, and what is said of them.

A zoo is a folder of safetensors shards, in which the models of a stack lie along a leading axis,
and an index with a row for each model at each checkpoint; see docs/zoo-format.md.
"""
