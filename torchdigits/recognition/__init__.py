"""Pictures and pages of digits, and what a network answers. Start reading in `recognizer.py`, then `preparation.py`.

It may import `data`, `files`, `network`, `figures` and `errors`, and never imports Lightning.
"""
