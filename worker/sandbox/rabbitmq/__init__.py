"""A private RabbitMQ: where its programs come from, and how a node is run."""
