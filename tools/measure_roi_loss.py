#!/usr/bin/env python3
"""
The command `ohem-d2 roi-loss`.
"""

from ohem_d2.commands.measure_roi_loss import main

if __name__ == "__main__":
    main()
