"""What gateways tell each other and their readers as it happens."""
