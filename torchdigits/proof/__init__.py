"""Autograd against back-propagation by hand: is every gradient, and every update, the same?

Start reading in `reference.py`, which needs NumPy alone. Then `gradients.py` compares a mini-batch, `free_run.py` and
`in_step.py` whole training runs, and `rounding.py` says how far rounding alone can carry two right programs apart.
It may import `engines`, `data` and what is below them.
"""
