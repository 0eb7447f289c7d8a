"""One training run, from its options to a tested checkpoint. Start reading in `run.py`.

It may import `engines`, `data`, `files` and what is below them.
"""
