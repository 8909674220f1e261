"""The real parts, private and for a while: a RabbitMQ node, a PostgreSQL server, a simulated Enterprise Manager.

Whatever starts here lives in a directory of its own, on free loopback ports, and is gone without a trace when it is
closed, or when the program that started it dies (`supervisor`, `reaper`). Nothing is installed, and no server of the
machine is touched.
"""
