"""Private, temporary servers for the demo and the tests: a RabbitMQ node and a simulated Enterprise Manager.

Each server has its own directory and uses free loopback ports. It is ended and its files are removed when it is closed,
or when the program that started it dies (`supervisor`, `reaper`). Nothing is installed, and no existing server of the
host is used.
"""
