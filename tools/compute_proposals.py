#!/usr/bin/env python3
"""
The command `ohem-d2 proposals`.
"""

from ohem_d2.commands.compute_proposals import main

if __name__ == "__main__":
    main()
