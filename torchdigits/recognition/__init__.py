"""Pictures of digits, and what a network answers to them. Start reading in `recognizer.py`, then `preparation.py`.

It may import `data`, `files`, `network`, `figures` and `errors`, and never imports Lightning.
"""
