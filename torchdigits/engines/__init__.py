"""How updates are run: fast, and on which machine. Start reading in `choice.py`.

It may import `data`, `classifier`, `sgd`, `network` and `errors`.
"""
