"""What the commands `demo` and `sandbox` share."""
