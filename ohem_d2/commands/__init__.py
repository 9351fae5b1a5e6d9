"""
The commands of `ohem-d2`, a module each. train_net.py and the scripts in tools/ run the same code.
"""
