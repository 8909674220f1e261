#!/bin/sh
# The least that each of those around the queue needs, as users of RabbitMQ. Run it where rabbitmqctl reaches the broker:
#
#     VHOST=/ sh permissions.sh
#
# The patterns after a name are for configure, write and read, on the names of exchanges and queues; a tag may follow.
# A new user has no password, and cannot log on before you set one with `rabbitmqctl change_password
# NAME`, which asks for it. A user who is there already keeps the password and gets the permissions.
set -eu
vhost=${VHOST:-/}
known=$(rabbitmqctl --quiet list_users --no-table-headers | cut -f 1)
definitions=$(mktemp)
# It holds no secret, and rabbitmqctl may read it as a user of its own.
chmod 644 "$definitions"
trap 'rm -f "$definitions"' EXIT
users='' permissions=''

text() {  # as a string of JSON
  printf '"%s"' "$(printf %s "$1" | sed 's/["\\]/\\&/g')"
}

user() {
  if ! printf '%s\n' "$known" | grep -qx "$1"; then
    users="$users${users:+,}
      {\"name\": $(text "$1"), \"password_hash\": \"\", \"tags\": $(text "${5:-}")}"
  fi
  permissions="$permissions${permissions:+,}
      {\"user\": $(text "$1"), \"vhost\": $(text "$vhost"),
       \"configure\": $(text "$2"), \"write\": $(text "$3"), \"read\": $(text "$4")}"
}

# A publisher: puts commands on the queue, and may wait for a direct reply. Receives no events, reads no queue.
user unlink-publisher '^$' '^unlink\.commands$' '^$'

# The same through RabbitMQ's HTTP API, which only users with this tag may use.
user unlink-http-publisher '^$' '^unlink\.commands$' '^$' management

# A pipeline: publishes and, for `submit --wait`, receives the events on a queue of its own, which is deleted with its connection.
user unlink-pipeline '^amq\.gen-' '^(unlink\.commands$|amq\.gen-)' '^(unlink\.events$|amq\.gen-)'

# An observer: receives the events, on such a queue or on a lasting one whose name begins with `observer.`.
user unlink-observer '^(amq\.gen-|observer\.)' '^(amq\.gen-|observer\.)' '^(unlink\.events$|amq\.gen-|observer\.)'

# The console: orders, waits for the end, and reads, replays and discards dead letters. Workers that are to believe who has
# ordered name it in UNLINK_FORWARDERS. It may look how long the queues of commands and the delay queues are because it may
# write to them: from 4.3 on, RabbitMQ tells that to those alone who have a permission on a queue.
user unlink-console '^amq\.gen-' '^(unlink\.(commands($|\.)|delay\.)|amq\.gen-)' '^(unlink\.(events|dead)$|amq\.gen-)'

# The worker where another user declares exchanges and queues (UNLINK_BROKER__TOPOLOGY=verify). It answers `reply_to`
# through the default exchange; without `reply_to`, leave amq\.default out: it permits to write to any queue.
user unlink-worker '^$' '^(unlink\.(events|dead|delay\..*)|amq\.default)$' '^unlink\.(commands\.|misrouted$)'

# The worker that declares them itself (UNLINK_BROKER__TOPOLOGY=declare, as it is by default).
user unlink-owner '^unlink\.' '^(unlink\.|amq\.default$)' '^unlink\.'

printf '{"users": [%s],\n "permissions": [%s]}\n' "$users" "$permissions" > "$definitions"
rabbitmqctl --quiet import_definitions "$definitions"
