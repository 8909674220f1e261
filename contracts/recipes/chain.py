"""Run a program for every link that is gone: the next step of a chain, with the event on its standard input.

    AMQP_URL=amqp://observer:PASSWORD@rabbit.example.com/ python chain.py ./decommission-repository

An event may be delivered more than once, always with the same `id`: the program must be idempotent, or remember the ID.
If the program exits with any status but 0, the event is delivered again, five times at most; then it is dead-lettered
to the queue observer.chain.failed.
"""

import os
import subprocess
import sys

import pika


def on_event(channel, method, _properties, body):
    done = subprocess.run(sys.argv[1:], input=body, check=False)
    if done.returncode == 0:
        channel.basic_ack(method.delivery_tag)
    else:
        channel.basic_reject(method.delivery_tag, requeue=True)


parameters = pika.URLParameters(os.environ["AMQP_URL"])
parameters.heartbeat = 0  # while the program runs, heartbeats would not be answered
channel = pika.BlockingConnection(parameters).channel()
channel.queue_declare("observer.chain.failed", durable=True, arguments={"x-queue-type": "quorum"})
channel.queue_declare(
    "observer.chain",
    durable=True,
    arguments={
        "x-queue-type": "quorum",
        "x-delivery-limit": 5,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "observer.chain.failed",
    },
)
channel.queue_bind("observer.chain", "unlink.events", "succeeded.*")
channel.basic_qos(prefetch_count=1)
channel.basic_consume("observer.chain", on_event)
channel.start_consuming()
