"""Vector oblivious linear evaluation over GF(2^128), from few oblivious transfers and short messages."""
