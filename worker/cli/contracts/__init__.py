"""The command `contracts`: the published schemas and the AsyncAPI document."""
