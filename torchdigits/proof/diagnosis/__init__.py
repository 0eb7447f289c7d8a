"""Somebody's own back-propagation: which equation is wrong, what was written instead, and in which line.

Start in `check.py`. `functions.py`, `networks.py` and `torch_forms.py` call the program in the way that it is written
for; `steps.py` is back-propagation a step at a time, where each of the mistakes in `mistakes.py` can be put;
`search.py` finds the one that gives the same numbers, `lines.py` its line; `unexplained.py` says what is known if
none does. `updates.py` looks at what is done with the gradient, and `file.py` checks a file in a process of its own.
It may import `reference` and `rounding`, and needs NumPy alone, but for `torch_forms.py`.
"""
