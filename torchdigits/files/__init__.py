"""Networks on disk: read without running code, written whole or not at all. Start reading in `networks.py`.

It may import `network` and `errors`, but never Lightning.
"""
