"""What an operator sees of the worker.

logs        one way in for log lines, and no secret out
metrics     what is counted and measured, for `/metrics`
tracing     the trace that a command belongs to: taken from it, passed on with all that leaves because of it
spans       the same, recorded and sent to a collector; imported only where that is set up
watched     the core's ports, watched: where metrics and steps come from
health      whether the worker lives, and whether it is ready
http        the small server for all of these
"""
