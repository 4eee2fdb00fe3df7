"""The hubs, one file each: how a source is pinned, listed and fetched."""
