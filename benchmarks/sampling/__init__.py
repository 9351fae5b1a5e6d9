"""
Trainings that differ only in how RoIs are sampled.
"""
