"""The commands `sandbox ...`: all parts on this machine until Ctrl-C."""
