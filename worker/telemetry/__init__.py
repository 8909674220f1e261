"""Logs, metrics, traces and health of the worker.

logs          sets up logging for all log lines; removes secrets
step_log      the log lines of an unlink, written from the steps that the core reports
metrics       the metrics at `/metrics`
step_metrics  the metrics of an unlink, written from the same steps
tracing       the trace that a command belongs to, and its spans, written from the same steps
spans         records spans and sends them to a collector; imported only if that is set up
requests      counts requests to Enterprise Manager, and sends the trace with them
health        whether the worker lives, and whether it is ready
http          the HTTP server for `/livez`, `/readyz` and `/metrics`
instruments   all of these together, for one worker
"""
