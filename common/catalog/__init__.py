"""What is installed and enabled: light descriptors of hubs and converters."""
