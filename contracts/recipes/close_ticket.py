"""Close the ticket of every unlink that succeeded, and comment on the others: for tickets with one link each.

AMQP_URL=amqp://observer:PASSWORD@rabbit.example.com/ TICKETS_API=https://tickets.example.com/api python close_ticket.py
"""

import json
import os

import pika
import requests

ENDS = ("succeeded", "failed", "rejected", "cancelled", "timed_out")


def on_event(channel, method, _properties, body):
    data = json.loads(body)["data"]
    # Every other event is acknowledged, too: else it would come back for ever.
    if data.get("outcome") in ENDS and data["ticket"] is not None:
        update_ticket(data["ticket"]["id"], data)
    # Acknowledge last: if the update fails, the event is delivered again. A ticket can be updated twice without harm.
    channel.basic_ack(method.delivery_tag)


def update_ticket(ticket, data):
    done = data["outcome"] == "succeeded"
    why = data["reason"]["message"] if data["reason"] else ""
    update = {"state": "closed" if done else "open", "note": f"unlink {data['outcome']} {why}".strip()}
    requests.patch(f"{os.environ['TICKETS_API']}/tickets/{ticket}", json=update, timeout=30).raise_for_status()


channel = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])).channel()
channel.queue_declare("observer.tickets", durable=True, arguments={"x-queue-type": "quorum"})
for outcome in ENDS:
    channel.queue_bind("observer.tickets", "unlink.events", f"{outcome}.*")
channel.basic_qos(prefetch_count=10)
channel.basic_consume("observer.tickets", on_event)
channel.start_consuming()
