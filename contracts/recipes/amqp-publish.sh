#!/bin/sh
# Publish the command on standard input with amqp-publish, of the package amqp-tools (Debian, Ubuntu) or librabbitmq.
#
#     AMQP_URL=amqp://publisher:PASSWORD@rabbit.example.com/ sh amqp-publish.sh [ENTERPRISE_MANAGER] < command.json
#
# It asks for no confirm: publish the same message again when in doubt. Others on the machine can see its arguments, and
# so the password.
set -eu
: "${AMQP_URL:?must name the broker, as above}"
command -v amqp-publish >/dev/null || { echo "amqp-publish is missing: install amqp-tools" >&2; exit 127; }
# A slash at the end of the URL means the virtual host "" to amqp-publish; without it, the default one.
exec amqp-publish --url="${AMQP_URL%/}" --exchange=unlink.commands --routing-key="${1:-default}" \
  --persistent --content-type=application/json
