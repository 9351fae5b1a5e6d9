#!/usr/bin/env python3
"""
The command `ohem-d2 inspect`.
"""

from ohem_d2.commands.inspect_hard_examples import main

if __name__ == "__main__":
    main()
