"""
The time and memory of a training step, with and without OHEM.
"""
