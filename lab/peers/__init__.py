"""IPsec implementations: how each is configured, started, driven, read and stopped."""
