"""
Pictures and pages. They need matplotlib and jinja2: `pip install "ohem_d2[demo]"`.
"""
