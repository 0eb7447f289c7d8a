"""Many networks trained at once, and how their results spread. Start reading in `ensemble.py`.

It may import `engines`, `data`, `files` and what is below them.
"""
