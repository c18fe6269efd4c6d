"""`python -m mrbridge`, and so `torchrun … -m mrbridge`: the command line."""

from mrbridge.start import main

if __name__ == "__main__":
    main()
