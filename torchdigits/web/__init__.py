"""A page to draw digits on, and an API that recognises them. Start reading in `app.py`.

It may import `training`, `recognition` and what is below them; it needs the extra `web`.
"""
