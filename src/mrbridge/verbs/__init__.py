"""The verbs of the command line: thin layers over the functions of the same names.

Slow imports are inside the verbs, so that `mrbridge --help` answers at once. What can be refused
without them (a path that does not exist, a folder that is not a store) is refused first.
"""
