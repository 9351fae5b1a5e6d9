#!/usr/bin/env python3
"""
The command `ohem-d2 check`.
"""

from ohem_d2.commands.check_dataset import main

if __name__ == "__main__":
    main()
