"""
Two small detectors on six sets of photographs: does mining help, and when?
"""
