"""What tests share: small models, other devices, second opinions, a browser."""
