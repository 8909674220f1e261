#!/bin/sh
# Publish the command on standard input through RabbitMQ's HTTP API: for programs that speak HTTP and not AMQP.
#
#     RABBITMQ_API=https://rabbit.example.com:15671 sh publish.sh [ENTERPRISE_MANAGER] < command.json
#
# User and password come from ~/.netrc, or from the file that RABBITMQ_NETRC names, so that no list of processes shows
# them. The user needs the tag `management`.
set -eu
manager=${1:-default}

answer=$(
  curl --silent --show-error --fail --netrc-file "${RABBITMQ_NETRC:-$HOME/.netrc}" --max-time 30 \
    --header 'Content-Type: application/json' --data @- \
    "$RABBITMQ_API/api/exchanges/${VHOST:-%2F}/unlink.commands/publish" <<EOF
{
  "routing_key": "$manager",
  "properties": {"delivery_mode": 2, "content_type": "application/json"},
  "payload_encoding": "base64",
  "payload": "$(base64 -w 0)"
}
EOF
)
case $answer in
  '{"routed":true}') ;;
  *) echo "not published: $answer" >&2 && exit 1 ;;
esac
