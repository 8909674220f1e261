"""Post the outcome of every unlink to a chat's incoming webhook (Slack, Mattermost, Rocket.Chat).

AMQP_URL=amqp://observer:PASSWORD@rabbit.example.com/ WEBHOOK_URL=https://chat.example.com/hooks/x python notify_chat.py

To receive fewer events, bind narrower patterns than `#`: `failed.*` and `timed_out.*`, for instance.
"""

import json
import os

import pika
import requests

SIGNS = {"succeeded": ":white_check_mark:", "planned": ":mag:", "cancelled": ":no_entry_sign:"}


def on_event(channel, method, _properties, body):
    event = json.loads(body)
    data = event["data"]
    if "outcome" in data and data["outcome"] != "submitted":
        requests.post(os.environ["WEBHOOK_URL"], json={"text": text_of(data)}, timeout=30).raise_for_status()
    # Acknowledge last: if the post fails, this program ends, and the event is delivered again after its next start.
    channel.basic_ack(method.delivery_tag)


def text_of(data):
    ticket = data["ticket"] or {"id": data["idempotency_key"], "url": None}
    name = f"<{escaped(ticket['url'])}|{escaped(ticket['id'])}>" if ticket["url"] else escaped(ticket["id"])
    return f"{SIGNS.get(data['outcome'], ':warning:')} *{data['outcome']}* {name}: {escaped(data['summary'])}"


def escaped(text):
    """Keep names from becoming links, or mentions of a whole channel."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


channel = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])).channel()
channel.queue_declare("observer.chat", durable=True, arguments={"x-queue-type": "quorum"})
channel.queue_bind("observer.chat", "unlink.events", "#")
channel.basic_qos(prefetch_count=10)
channel.basic_consume("observer.chat", on_event)
channel.start_consuming()
