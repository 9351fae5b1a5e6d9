#!/usr/bin/env python3
"""
The command `ohem-d2 convert-proposals`.
"""

from ohem_d2.commands.convert_proposals import main

if __name__ == "__main__":
    main()
