"""
Pictures and pages. They need matplotlib and jinja2: `pip install jinja2 matplotlib`.
"""
