"""
The experiments of Shrivastava et al. 2016, to be repeated: see ohem_d2.commands.reproduce.
"""
