"""Publish the command on standard input, and print its terminal event as it comes back by direct reply-to.

    AMQP_URL=amqp://publisher:PASSWORD@rabbit.example.com/ python publish.py < command.json

The reply comes at most once: when none does, publish the same command again. What ended is answered at once.
"""

import json
import os
import sys

import pika

WAIT_SECONDS = 1800

command = sys.stdin.read()
answers = []

with pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])) as connection:
    channel = connection.channel()
    channel.confirm_delivery()  # basic_publish then returns when the broker has the command safe, and raises if not
    channel.basic_consume("amq.rabbitmq.reply-to", lambda *delivery: answers.append(delivery[-1]), auto_ack=True)
    channel.basic_publish(
        "unlink.commands",
        json.loads(command).get("enterprise_manager", "default"),
        command,
        pika.BasicProperties(
            content_type="application/json",
            delivery_mode=pika.DeliveryMode.Persistent,
            reply_to="amq.rabbitmq.reply-to",
        ),
        mandatory=True,
    )
    connection.call_later(WAIT_SECONDS, lambda: sys.exit("no reply"))
    while not answers:
        connection.process_data_events(time_limit=None)

print(answers[0].decode())
