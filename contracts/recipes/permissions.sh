#!/bin/sh
# The least that each of those around the queue needs, as users of RabbitMQ. Run it where rabbitmqctl reaches the broker:
#
#     VHOST=/ sh permissions.sh
#
# The three patterns after a name are for configure, write and read, on the names of exchanges and queues. Each user gets
# a random password that nobody knows; set the real one with `rabbitmqctl change_password NAME`, which asks for it.
set -eu
vhost=${VHOST:-/}

user() {
  head -c 32 /dev/urandom | base64 | rabbitmqctl --quiet add_user "$1"
  rabbitmqctl --quiet set_permissions -p "$vhost" "$@"
}

# A publisher: puts commands on the queue, and may wait for a direct reply. Hears no events, reads no queue.
user unlink-publisher '^$' '^unlink\.commands$' '^$'

# The same through RabbitMQ's HTTP API, which only users with this tag may use.
user unlink-http-publisher '^$' '^unlink\.commands$' '^$'
rabbitmqctl --quiet set_user_tags unlink-http-publisher management

# A pipeline: publishes and, for `submit --wait`, hears the events on a queue of its own that goes when it goes.
user unlink-pipeline '^amq\.gen-' '^(unlink\.commands$|amq\.gen-)' '^(unlink\.events$|amq\.gen-)'

# An observer: hears the events, on such a queue or on a lasting one whose name begins with `observer.`.
user unlink-observer '^(amq\.gen-|observer\.)' '^(amq\.gen-|observer\.)' '^(unlink\.events$|amq\.gen-|observer\.)'

# The worker where somebody else declares exchanges and queues (UNLINK_BROKER__TOPOLOGY=verify). It answers `reply_to`
# through the default exchange; where nobody uses that, leave amq\.default out, since who has it can write to any queue.
user unlink-worker '^$' '^(unlink\.(events|dead|delay\..*)|amq\.default)$' '^unlink\.commands\.'

# The worker that declares them itself (UNLINK_BROKER__TOPOLOGY=declare, as it is by default).
user unlink-owner '^unlink\.' '^(unlink\.|amq\.default$)' '^unlink\.'
