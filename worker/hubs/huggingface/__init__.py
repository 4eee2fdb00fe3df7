"""The Hugging Face hub: pins a repository to a commit, chooses its files, has them fetched, and lists what there is."""

from worker.hubs.huggingface.hub import HuggingFaceHub
from worker.hubs.huggingface.selection import select

__all__ = ["HuggingFaceHub", "select"]
