"""Autograd against back-propagation by hand: is every gradient, and every update, the same? Ours, and anyone's.

Start reading in `reference.py`, which needs NumPy alone. Then `gradients.py` compares a mini-batch, `free_run.py` and
`in_step.py` whole training runs, and `rounding.py` says how far rounding alone can carry two right programs apart.
`diagnosis` is a room of its own: what is wrong with somebody's program?
It may import `engines`, `data` and what is below them.
"""

from torchdigits.proof.diagnosis.check import assert_gradients_agree, check

__all__ = ["assert_gradients_agree", "check"]
