"""Numbered schema migrations, and the command that applies them."""
