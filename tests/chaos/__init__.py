"""Chaos: everything that can be killed, frozen or cut is, at random, while jobs run; then the books are checked."""
