"""The unlink worker.

An unlink passes through `broker`, `unlinks`, `enterprise_manager` and `ledger`; `telemetry` reports it. People and
programs use it through `cli` and `console`, which share `dead`. `doctor` checks a deployment, and `sandbox` starts
private servers. The core, `unlinks`, imports none of the others.
"""
