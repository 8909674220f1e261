"""The client of Veeam Backup Enterprise Manager's REST API.

`gateway` is what the core sees. Beneath it, from the wire upwards: `transport` (one request, one answer, over TLS),
`documents` (bytes to plain records, XML and JSON alike), `logon` (one session for all calls), `calls` (what is
repeated), `responses` (what an answer means), `availability` (down, probing, up again). `names` finds things by name,
`paths` follows links without trusting them, `remedies` words problems and names the setting that mends them.

The size, depth, IDs and links of every answer are checked before they are used.
"""

from worker.enterprise_manager.gateway import Gateway

__all__ = ["Gateway"]
