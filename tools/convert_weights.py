#!/usr/bin/env python3
"""
The command `ohem-d2 convert-weights`.
"""

from ohem_d2.commands.convert_weights import main

if __name__ == "__main__":
    main()
