"""What the core needs from outside, as protocols: a clock, a broker, an Enterprise Manager, a ledger."""
