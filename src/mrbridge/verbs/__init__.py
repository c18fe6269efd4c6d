"""What each verb of the command line does: thin layers over the functions of their names.

Heavy imports live inside the verbs, so that `mrbridge --help` answers at once; what can be refused
without them (a path at which nothing lies, a folder that is not a store) is refused before.
"""
