"""A private RabbitMQ: finds or downloads its programs, and runs a node."""
