"""The command `submit`: one unlink command from options, or many from a file."""
