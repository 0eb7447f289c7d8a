"""How updates are run: fast, and on which machine. Start reading in `choice.py`.

It may import `data`, `files`, `classifier`, `sgd`, `network` and `errors`.
"""
