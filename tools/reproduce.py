#!/usr/bin/env python3
"""
The command `ohem-d2 reproduce`.
"""

from ohem_d2.commands.reproduce import main

if __name__ == "__main__":
    main()
