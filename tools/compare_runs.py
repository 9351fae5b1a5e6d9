#!/usr/bin/env python3
"""
The command `ohem-d2 compare`.
"""

from ohem_d2.commands.compare_runs import main

if __name__ == "__main__":
    main()
