#!/usr/bin/env python3
"""
The command `ohem-d2 evaluate`.
"""

from ohem_d2.commands.evaluate_detections import main

if __name__ == "__main__":
    main()
