"""Every acceptance case of the contract, by its number, against a running service."""
