"""What the core needs of the outside, as protocols: a clock, a broker, an Enterprise Manager, a ledger."""
