"""Where digits come from, and mini-batches of them. Start reading in `datasets.py`.

It may import `files` and `errors`. Only `datamodule.py` imports Lightning.
"""
