"""Publishing commands, one or many, and waiting for their ends: shared by every command that publishes one."""
