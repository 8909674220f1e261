"""What the core needs from outside, as protocols: clock, broker, Enterprise Manager, ledger, receiver of steps."""
