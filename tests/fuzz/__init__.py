"""Hostile bytes for everything that reads files: `python -m tests.fuzz`, and a short part of it in the test suite.

A target makes an input out of random bytes (`choices`), runs the real code on it, and compares with an oracle that
shares no code with it. Right rows, or a refusal in one line, are the only outcomes allowed. Atheris, where it is
installed, chooses the bytes by the branches that they reach in `engine`; the tests draw them from a seed.
"""
