"""Real servers on loopback that speak a hub's protocol, and real but tiny models."""
