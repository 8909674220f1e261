"""The client of Veeam Backup Enterprise Manager's REST API.

`gateway` is what the core sees. Beneath it, from the wire upwards: `transport` (one request, one answer, over TLS),
`documents` (bytes to plain records, XML and JSON alike), `logon` (one session for everybody), `calls` (what is
repeated), `verdicts` (what an answer means), `availability` (down, probing, up again). `names` finds things by name,
`paths` follows links without trusting them, `remedies` says what went wrong so that a person can mend it.

Nothing of the server's answers is trusted further than it was checked: their size, depth, IDs and links.
"""

from worker.enterprise_manager.gateway import Gateway

__all__ = ["Gateway"]
