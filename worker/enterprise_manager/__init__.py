"""The client of Veeam Backup Enterprise Manager's REST API.

The core calls `gateway`. The modules below it, from the network upwards: `transport` (one request and its response,
over TLS), `documents` (parses XML and JSON into the same records), `logon` (one session for all calls), `calls` (the
requests that may be repeated), `responses` (the meaning of a response), `availability` (down, probing, up again).
`names` finds jobs and repositories by name, `paths` checks a URL from the server before its path is used, and
`remedies` describes a problem and names the setting that solves it.

The size, depth, IDs and URLs of every response are checked before they are used.
"""

from worker.enterprise_manager.gateway import Gateway

__all__ = ["Gateway"]
