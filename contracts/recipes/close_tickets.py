"""Comment on each unlink in its ticket, and close the ticket once all of its links are gone.

It remembers in the SQLite file TICKETS_DB what it has heard of. A ticket stays open while one of its commands is under
way or has not succeeded, and while one of a batch that it has a part in is missing. Retry what failed; where another
command took the place of a rejected one, and no batch holds both, close the ticket by hand. A dry run is commented on,
no more; one that is rejected counts as a rejected command.

AMQP_URL=amqp://observer:PASSWORD@rabbit.example.com/ TICKETS_API=https://tickets.example.com \
    TICKETS_DB=tickets.sqlite python close_tickets.py
"""

import json
import os
import sqlite3

import pika
import requests

RUN = ("submitted", "succeeded", "failed", "rejected", "cancelled", "timed_out")
ADD = "INSERT OR IGNORE INTO commands VALUES (?, ?, ?, ?, ?)"
REPLACE = "INSERT OR REPLACE INTO commands VALUES (?, ?, ?, ?, ?)"
NOT_GONE = """SELECT count(*) FROM commands AS each WHERE ticket = ?
              AND (NOT gone OR size > (SELECT count(DISTINCT key) FROM commands WHERE batch = each.batch))"""


def on_event(channel, method, _properties, body):
    event = json.loads(body)
    data = event["data"]
    with heard:  # forgets the event if an update fails; after the next start it is delivered again
        if event["type"] == "unlink.batch_ended.v1":
            on_batch_ended(data)
        elif data.get("outcome") in RUN:
            on_command(event.get("subject", event["id"]), data)
        elif data.get("outcome") == "planned":
            update(id_of_ticket(data), {"note": data["summary"]})
    # Acknowledge last. A ticket can be updated twice without harm.
    channel.basic_ack(method.delivery_tag)


def on_command(key, data):
    ticket, batch = id_of_ticket(data), data["batch"] or {"id": None, "size": 0}
    row = (ticket, key, id_of_batch(data, data["request"]["user_id"]), batch["size"], data["outcome"] == "succeeded")
    # A `submitted` that comes once more, after the end, changes nothing.
    heard.execute(ADD if data["outcome"] == "submitted" else REPLACE, row)
    update(ticket, {"note": data["summary"], "state": state_of(ticket)})


def on_batch_ended(data):
    batch, note = id_of_batch(data, data["user_id"]), {}
    tickets = {ticket for (ticket,) in heard.execute("SELECT ticket FROM commands WHERE batch = ?", (batch,))}
    if data["all_succeeded"]:
        heard.execute("UPDATE commands SET gone = 1, size = 0 WHERE batch = ?", (batch,))
    if data["ticket"] is not None:  # of all commands, also of those whose events came before this program was there
        tickets, note = {id_of_ticket(data)}, {"note": data["summary"]}
        rows = [(id_of_ticket(data), key, batch, data["batch"]["size"], False) for key in data["not_succeeded"]]
        heard.executemany(ADD, rows)
    for ticket in tickets:
        update(ticket, note | {"state": state_of(ticket)})


def id_of_ticket(data):
    return data["ticket"] and data["ticket"]["id"]


def id_of_batch(data, user):
    return data["batch"] and json.dumps([data["enterprise_manager"], user, data["batch"]["id"]])


def state_of(ticket):
    return "open" if heard.execute(NOT_GONE, (ticket,)).fetchone()[0] else "closed"


def update(ticket, fields):
    if ticket is not None:
        url = f"{os.environ['TICKETS_API']}/tickets/{ticket}"
        requests.patch(url, json=fields, timeout=30).raise_for_status()


heard = sqlite3.connect(os.environ["TICKETS_DB"])
heard.execute("CREATE TABLE IF NOT EXISTS commands (ticket, key, batch, size, gone, UNIQUE (ticket, key))")
channel = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])).channel()
channel.queue_declare("observer.tickets", durable=True, arguments={"x-queue-type": "quorum"})
for outcome in (*RUN, "planned", "batch_ended"):
    channel.queue_bind("observer.tickets", "unlink.events", f"{outcome}.*")
channel.basic_qos(prefetch_count=10)
channel.basic_consume("observer.tickets", on_event)
channel.start_consuming()
