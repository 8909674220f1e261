"""Comment on each unlink in its ticket, and close the ticket once all of its links are gone.

Commands of one ticket name one batch (`submit --file` and `offboard` do); a command without a batch is alone in its
ticket.

AMQP_URL=amqp://observer:PASSWORD@rabbit.example.com/ TICKETS_API=https://tickets.example.com/ python close_tickets.py
"""

import json
import os

import pika
import requests


def on_event(channel, method, _properties, body):
    event = json.loads(body)
    data = event["data"]
    if data["ticket"] is not None:
        ticket = f"{os.environ['TICKETS_API']}/tickets/{data['ticket']['id']}"
        requests.patch(ticket, json=update_of(event), timeout=30).raise_for_status()
    # Acknowledge last: if the update fails, the event is delivered again. A ticket can be updated twice without harm.
    channel.basic_ack(method.delivery_tag)


def update_of(event):
    data = event["data"]
    update = {"note": data["summary"]}
    if event["type"] == "unlink.batch_ended.v1":
        return update | {"state": "closed" if data["all_succeeded"] else "open"}
    if data["batch"] is None and data["close_code"] is not None:  # without a code, it has not ended
        gone = data["close_code"] in ("done", "nothing_to_do")
        return update | {"state": "closed" if gone else "open", "close_code": data["close_code"]}
    return update


channel = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])).channel()
channel.queue_declare("observer.tickets", durable=True, arguments={"x-queue-type": "quorum"})
channel.queue_bind("observer.tickets", "unlink.events", "#")
channel.basic_qos(prefetch_count=10)
channel.basic_consume("observer.tickets", on_event)
channel.start_consuming()
