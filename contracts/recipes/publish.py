"""Publish the command on standard input, and print its terminal event as it comes back by direct reply-to.

    AMQP_URL=amqp://publisher:PASSWORD@rabbit.example.com/ python publish.py < command.json

The reply is delivered at most once. If none arrives, publish the same command again: if it has ended, it is answered at
once. The exit status is 0 if an event arrived (its outcome says how the command ended), 1 if the broker did not accept
the command or no event arrived, 2 for wrong usage.
"""

import json
import os
import sys

import pika
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPError, NackError, UnroutableError

WAIT_SECONDS = 1800


def main():
    if "AMQP_URL" not in os.environ:
        leave(2, "AMQP_URL is not set, such as amqp://publisher:PASSWORD@rabbit.example.com/")
    try:
        command = sys.stdin.buffer.read().decode()
        manager = json.loads(command).get("enterprise_manager", "default")
    except (ValueError, AttributeError, RecursionError) as error:
        leave(2, f"standard input must be one JSON object in UTF-8: {error}")
    if not (isinstance(manager, str) and manager.isascii()):
        leave(2, "enterprise_manager must be the name of one")
    try:
        parameters = pika.URLParameters(os.environ["AMQP_URL"])
    except Exception:  # noqa: BLE001 - pika raises what its parsing happens to; its text may show the password
        leave(2, "AMQP_URL is no URL such as amqp://publisher:PASSWORD@rabbit.example.com/ (in PASSWORD, / is %2F)")
    try:
        print(answer_to(command, manager, parameters))
    except UnroutableError:
        leave(1, f"not published: there is no queue for the commands of {manager!r}")
    except NackError:
        leave(1, "the broker did not take the command: its queue may be full")
    except (AMQPError, AMQPConnectorException, OSError) as error:  # refused, lost, silent, or a password that is wrong
        leave(1, f"the broker cannot be used: {reason_of(error)}")


def answer_to(command, manager, parameters):
    answers = []
    with pika.BlockingConnection(parameters) as connection:
        channel = connection.channel()
        channel.confirm_delivery()  # basic_publish then returns once the broker has confirmed, and raises if it refuses
        channel.basic_consume("amq.rabbitmq.reply-to", lambda *delivery: answers.append(delivery[-1]), auto_ack=True)
        channel.basic_publish(
            "unlink.commands",
            manager,
            command,
            pika.BasicProperties(
                content_type="application/json",
                delivery_mode=pika.DeliveryMode.Persistent,
                reply_to="amq.rabbitmq.reply-to",
            ),
            mandatory=True,
        )
        connection.call_later(WAIT_SECONDS, lambda: leave(1, f"no reply within {WAIT_SECONDS} s"))
        while not answers:
            connection.process_data_events(time_limit=None)
    return answers[0].decode()


def reason_of(error):
    """The innermost error's text: those around it have none."""
    for each in (getattr(error, "exception", None), *error.args):
        if isinstance(each, Exception):
            return reason_of(each)
    return str(error) or type(error).__name__


def leave(status, message):
    print(message, file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
