"""
Pictures of what mining does. They need matplotlib and jinja2 (`pip install ohem_d2[demo]`).
"""
