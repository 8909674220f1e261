"""Logs, metrics, traces and health of the worker.

logs          sets up logging for all log lines; removes secrets
step_log      the log lines of an unlink, written from the steps that the core reports
metrics       the metrics at `/metrics`
step_metrics  the metrics of an unlink, written from the same steps
tracing       the trace context of a command, and its spans, written from the same steps
spans         records spans and exports them to a collector; imported only if an endpoint is set
requests      counts requests to Enterprise Manager, and adds the trace headers to them
health        the worker's liveness and readiness
http          the HTTP server for `/livez`, `/readyz` and `/metrics`
isolation     logs an error in telemetry, and lets the worker continue
instruments   combines all of these for one worker
"""
