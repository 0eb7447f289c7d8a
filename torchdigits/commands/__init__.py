"""The commands: a module for each, with its options, what it prints and its exit status. Start reading in `cli.py`.

It may import everything; nothing imports it. Only it knows tyro.
"""
