#!/usr/bin/env python3
"""
The command `ohem-d2 ablation`.
"""

from ohem_d2.commands.ablation import main

if __name__ == "__main__":
    main()
