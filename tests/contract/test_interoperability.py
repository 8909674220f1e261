"""Clients that this project did not write understand the events, and are understood."""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pika
import pytest
import requests
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_rabbitmq, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from jsonschema import Draft202012Validator

from contracts.events import CONTENT_TYPE, Outcome
from contracts.published import all_schemas, examples
from tests import programs
from tests.contract.conftest import Site
from tests.missing_parts import require_program
from worker.sandbox.packages import unpacked
from worker.sandbox.processes.worker_process import surroundings

SCHEMAS = all_schemas()
#: For a recipe that waits for an unlink, in seconds.
TIMEOUT_SECONDS = 90


def run(program: list[str | Path], body: Any, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a recipe with a message on its standard input."""
    return programs.run(
        program,
        input=body if isinstance(body, str) else json.dumps(body),
        env=surroundings() | environment,
        timeout=TIMEOUT_SECONDS,
    )


# --- CloudEvents ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", Outcome)
def test_the_cloud_events_project_reads_every_kind_of_event(outcome: Outcome) -> None:
    """A consumer with the CloudEvents SDK gets attributes and data without any code of its own."""
    (example,) = examples(outcome.event_type)
    event = from_rabbitmq(RabbitMQMessage({}, CONTENT_TYPE, json.dumps(example).encode()), JSONFormat())
    assert (event.get_id(), event.get_type(), event.get_source()) == tuple(
        example[name] for name in ("id", "type", "source")
    )
    assert event.get_subject() == example.get("subject")
    assert event.get_data() == example["data"]


def test_the_cloud_events_project_reads_what_a_worker_sends(site: Site) -> None:
    """So it does with the events, properties and headers as they come from a broker; and they fit their schemas."""
    with pika.BlockingConnection(pika.URLParameters(site.amqp_url)) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, "unlink.events", "*.default")
        site.world.send(site.new_command("sdk-reads"))
        events = []
        for _method, properties, body in channel.consume(queue, auto_ack=True, inactivity_timeout=TIMEOUT_SECONDS):
            assert properties is not None, "no event"
            assert body is not None
            headers = {name: str(value) for name, value in (properties.headers or {}).items()}
            event = from_rabbitmq(RabbitMQMessage(headers, properties.content_type, body), JSONFormat())
            Draft202012Validator(SCHEMAS[event.get_type()]).validate(json.loads(body))
            assert (properties.message_id, properties.type) == (event.get_id(), event.get_type())
            assert (properties.delivery_mode, properties.app_id) == (2, "unlink-worker")
            assert properties.correlation_id == event.get_subject() == "sdk-reads"
            events.append(event.get_type())
            if event.get_type() != Outcome.SUBMITTED.event_type:
                break
    assert events == ["unlink.submitted.v1", "unlink.succeeded.v1"]


def test_a_command_wrapped_by_the_cloud_events_project_is_taken(site: Site) -> None:
    """A publisher that speaks CloudEvents needs no other dialect."""
    command = site.new_command("sdk-writes")
    event = CloudEvent({"type": "com.example.unlink", "source": "/jira", "id": "1"}, command)
    publish(site, to_structured(event, JSONFormat()))
    assert site.outcome_of("sdk-writes")["outcome"] == "succeeded"


def test_a_command_in_binary_mode_is_taken(site: Site) -> None:
    """In binary mode the body is the command itself: nothing has to be unwrapped."""
    command = site.new_command("sdk-writes-binary")
    attributes = {"type": "com.example.unlink", "source": "/jira", "id": "1", "datacontenttype": "application/json"}
    publish(site, to_binary(CloudEvent(attributes, command), JSONFormat()))
    assert site.outcome_of("sdk-writes-binary")["outcome"] == "succeeded"


def publish(site: Site, message: RabbitMQMessage) -> None:
    """Publish as the SDK asks."""
    with pika.BlockingConnection(pika.URLParameters(site.amqp_url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        properties = pika.BasicProperties(content_type=message.content_type, headers=dict(message.headers))
        channel.basic_publish("unlink.commands", "default", message.body, properties, mandatory=True)


# --- other ways to publish ------------------------------------------------------------------------------------------


@pytest.fixture
def http_api(site: Site, tmp_path: Path) -> dict[str, str]:
    """What the recipe for the HTTP API needs in its environment."""
    require_program("curl")
    credentials, _, host = site.broker.management_url.removeprefix("http://").partition("@")
    user, _, password = credentials.partition(":")
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"machine {host.partition(':')[0]} login {user} password {password}\n")
    netrc.chmod(0o600)
    return {"HOME": str(tmp_path), "RABBITMQ_API": f"http://{host}", "VHOST": site.virtual_host}


def test_a_command_published_through_the_http_api_works(site: Site, http_api: dict[str, str], recipes: Path) -> None:
    """A ticketing system that cannot speak AMQP has its way in."""
    done = run(["sh", recipes / "publish.sh"], site.new_command("http"), http_api)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    data = site.outcome_of("http")
    assert (data["outcome"], data["evidence"], data["correlation_id"]) == ("succeeded", "task", "http")


def test_a_message_without_any_properties_works(site: Site) -> None:
    """Some senders can set none: ticket and correlation come from the body alone, and are repeated in the event's."""
    command = site.new_command("bare") | {"ticket": {"system": "st2", "id": "1"}, "correlation_id": "c-1"}
    api = f"{site.broker.management_url}/api/exchanges/{site.virtual_host}/unlink.commands/publish"
    message = {"routing_key": "default", "properties": {}, "payload": json.dumps(command), "payload_encoding": "string"}
    assert requests.post(api, json=message, timeout=30).json() == {"routed": True}
    data = site.outcome_of("bare")
    assert (data["outcome"], data["ticket"]["id"], data["correlation_id"]) == ("succeeded", "1", "c-1")


def test_a_wrong_password_is_reported_to_who_publishes_by_http(
    site: Site, http_api: dict[str, str], recipes: Path, tmp_path: Path
) -> None:
    """The recipe does not pass over a refusal."""
    netrc = tmp_path / ".netrc"
    netrc.write_text(netrc.read_text().rpartition(" ")[0] + " wrong\n")
    done = run(["sh", recipes / "publish.sh"], site.new_command("http-refused"), http_api)
    assert done.returncode != 0
    assert "401" in done.stderr


def test_a_command_with_a_misspelt_routing_key_is_rejected_though_the_http_api_calls_it_routed(
    site: Site, http_api: dict[str, str], recipes: Path
) -> None:
    """What contracts/README.md warns of: a misspelt routing key is answered with `routed`, and no worker serves it."""
    before = site.world.client.count("unlink.dead")
    done = run(["sh", recipes / "publish.sh", "no.body"], site.new_command("nobody"), http_api)
    assert done.returncode == 0
    site.world.until(lambda: site.world.client.count("unlink.dead") == before + 1, "a dead letter")


@pytest.fixture(scope="module")
def amqp_tools() -> dict[str, str]:
    """The environment in which amqp-publish is found."""
    root = unpacked("amqp-tools", companions="librabbitmq4|libpopt0")
    libraries = ":".join(str(path.parent) for path in root.glob("usr/lib/*/librabbitmq.so.4"))
    libraries += ":" + ":".join(str(path.parent) for path in root.glob("**/libpopt.so.0"))
    return {"PATH": f"{root / 'usr/bin'}:{os.environ['PATH']}", "LD_LIBRARY_PATH": libraries}


def test_a_command_published_by_amqp_publish_works(site: Site, amqp_tools: dict[str, str], recipes: Path) -> None:
    """A shell script with Debian's amqp-tools is publisher enough."""
    environment = amqp_tools | {"AMQP_URL": site.amqp_url}
    done = run(["sh", recipes / "amqp-publish.sh"], site.new_command("amqp-publish"), environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert site.outcome_of("amqp-publish")["outcome"] == "succeeded"


@pytest.mark.parametrize("ending", ["", "/", "/%2f"])
def test_amqp_publish_takes_every_url_of_the_default_virtual_host(
    site: Site, amqp_tools: dict[str, str], recipes: Path, ending: str
) -> None:
    """A publisher with the URL of the recipe's header, with a slash at its end, is not asked for a virtual host ""."""
    url = site.broker.url.removesuffix("/") + ending
    with pika.BlockingConnection(pika.URLParameters(site.broker.url)) as connection:
        channel = connection.channel()
        channel.exchange_declare("unlink.commands", "direct", auto_delete=True)
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, "unlink.commands", "default")
        done = run(["sh", recipes / "amqp-publish.sh"], {"command": "unlink.v1"}, amqp_tools | {"AMQP_URL": url})
        assert (done.returncode, done.stderr) == (0, "")
        ((_method, properties, body),) = itertools.islice(channel.consume(queue, inactivity_timeout=TIMEOUT_SECONDS), 1)
    assert body is not None, "nothing came"
    assert json.loads(body) == {"command": "unlink.v1"}
    assert properties is not None
    assert (properties.content_type, properties.delivery_mode) == ("application/json", 2)


def test_a_direct_reply_comes_to_an_ordinary_client(site: Site, recipes: Path) -> None:
    """A script gets its answer on the connection that it asked on; asking again gets the same answer at once."""
    command = site.new_command("reply")
    first, second = (
        run([sys.executable, recipes / "publish.py"], command, {"AMQP_URL": site.amqp_url}) for _ in range(2)
    )
    assert (first.returncode, first.stderr) == (0, "")
    event = json.loads(first.stdout)
    assert (event["type"], event["subject"]) == ("unlink.succeeded.v1", "reply")
    assert second.stdout == first.stdout


def test_a_rejection_is_replied_too(site: Site, recipes: Path) -> None:
    """A script that misspells a field is told so."""
    done = run([sys.executable, recipes / "publish.py"], {"comand": "unlink.v1"}, {"AMQP_URL": site.amqp_url})
    data = json.loads(done.stdout)["data"]
    assert (data["outcome"], data["reason"]["code"]) == ("rejected", "invalid_message")
    assert "comand: unknown field" in data["reason"]["message"]


@pytest.mark.parametrize(
    ("command", "url", "status", "said"),
    [
        ('{"command": "unlink.v1"}', None, 2, "AMQP_URL is not set"),
        ("not JSON", "amqp://127.0.0.1:1", 2, "standard input must be one JSON object"),
        ("[]", "amqp://127.0.0.1:1", 2, "standard input must be one JSON object"),
        ("\udcff", "amqp://127.0.0.1:1", 2, "standard input must be one JSON object in UTF-8"),
        ('{"enterprise_manager": null}', "amqp://127.0.0.1:1", 2, "enterprise_manager must be the name of one"),
        ('{"enterprise_manager": 7}', "amqp://127.0.0.1:1", 2, "enterprise_manager must be the name of one"),
        ('{"enterprise_manager": "\\ud800"}', "amqp://127.0.0.1:1", 2, "enterprise_manager must be the name of one"),
        ("{}", "foo", 2, "AMQP_URL is no URL"),
        ("{}", "amqp://user:s3cret/x@rabbit/", 2, "AMQP_URL is no URL"),
        ("{}", "amqp://127.0.0.1:1", 1, "the broker cannot be used: [Errno 111] Connection refused"),
    ],
)
def test_a_publisher_that_cannot_publish_says_so_in_one_line(
    recipes: Path, command: str, url: str | None, status: int, said: str
) -> None:
    """An administrator would read a stack trace in the ticket."""
    urls = {} if url is None else {"AMQP_URL": url}
    others = {name: value for name, value in os.environ.items() if name != "AMQP_URL"}
    program = [sys.executable, str(recipes / "publish.py")]
    done = programs.run(program, input=command, errors="surrogateescape", env=others | urls, timeout=TIMEOUT_SECONDS)
    assert (done.returncode, done.stdout, "s3cret" in done.stderr) == (status, "", False)
    assert (said in done.stderr, done.stderr.count("\n")) == (True, 1)


def test_a_publisher_whose_broker_never_answers_says_so_in_one_line(recipes: Path) -> None:
    """A broker that hangs accepts the connection and is silent: pika's time-out is none of its AMQP errors."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"amqp://127.0.0.1:{silent.getsockname()[1]}/?stack_timeout=0.5"
        done = run([sys.executable, recipes / "publish.py"], "{}", {"AMQP_URL": url})
    assert (done.returncode, done.stdout) == (1, "")
    assert ("the broker cannot be used: Timeout" in done.stderr, done.stderr.count("\n")) == (True, 1)


# --- ticketing systems ----------------------------------------------------------------------------------------------

#: Runs a ServiceNow script with as much of ServiceNow as it uses; prints the request that it makes.
SERVICENOW = """
const fs = require("node:fs"), vm = require("node:vm");
const [, script, fields, status, answer] = process.argv, record = JSON.parse(fields);
const made = {headers: {}, errors: []};
class RESTMessageV2 {
  setHttpMethod(method) { made.method = method; }
  setEndpoint(url) { made.url = url; }
  setAuthenticationProfile(kind, id) { made.authentication = [kind, id]; }
  setMIDServer(name) { made.midServer = name; }
  setRequestHeader(name, value) { made.headers[name] = value; }
  setHttpTimeout(milliseconds) { made.timeout = milliseconds; }
  setRequestBody(body) { made.body = body; }
  execute() { return {getStatusCode: () => Number(status), getBody: () => answer}; }
}
vm.runInNewContext(fs.readFileSync(script, "utf8"), {
  current: {getValue: (name) => record[name]},
  previous: null,
  gs: {
    getProperty: (name) => name,
    getUserName: () => "j.doe",
    error: (message) => made.errors.push(message),
  },
  sn_ws: {RESTMessageV2},
});
console.log(JSON.stringify(made));
"""


@pytest.fixture
def servicenow(recipes: Path) -> Callable[..., dict[str, Any]]:
    """Runs the business rule on a record; what it asked for."""
    node = require_program("node")

    def servicenow(record: dict[str, str], status: int, answer: str) -> dict[str, Any]:
        arguments = [str(recipes / "servicenow.js"), json.dumps(record), str(status), answer]
        done = run([node, "-e", SERVICENOW, *arguments], "", {})
        assert done.returncode == 0, done.stderr
        made: dict[str, Any] = json.loads(done.stdout)
        return made

    return servicenow


def test_the_service_now_rule_publishes_a_command(site: Site, servicenow: Callable[..., dict[str, Any]]) -> None:
    """What the business rule sends is what RabbitMQ's HTTP API and the worker take."""
    command = site.new_command("servicenow:CHG0030192/")
    key = f"servicenow:CHG0030192/{command['job']['id']}/{command['repository']['link_id']}"
    record = {
        "number": "CHG0030192",
        "u_backup_copy_job_id": command["job"]["id"],
        "u_repository_link_id": command["repository"]["link_id"],
    }
    made = servicenow(record, 200, '{"routed":true}')
    assert made["errors"] == []
    assert (made["method"], made["headers"]) == ("POST", {"Content-Type": "application/json"})
    assert made["url"] == "unlink.rabbitmq_api/api/exchanges/%2F/unlink.commands/publish"
    url = made["url"].replace("unlink.rabbitmq_api", site.broker.management_url).replace("%2F", site.virtual_host)
    assert requests.post(url, data=made["body"], headers=made["headers"], timeout=30).json() == {"routed": True}
    data = site.outcome_of(key)
    assert (data["outcome"], data["ticket"]["id"], data["requested_by"]) == ("succeeded", "CHG0030192", "j.doe")


def test_a_change_may_have_several_links_and_be_corrected(servicenow: Callable[..., dict[str, Any]]) -> None:
    """The second link of a change, a corrected job, or the consent that was missing, would be a reused key."""
    record = {"number": "CHG1", "u_backup_copy_job_id": "job", "u_repository_link_id": "link"}
    changes = ({"u_repository_link_id": "other"}, {"u_backup_copy_job_id": "right"}, {"u_linked_backups_may_go": "1"})
    others = [record, *(record | each for each in changes)]
    made = [servicenow(each, 200, '{"routed":true}') for each in others]
    commands = [json.loads(json.loads(each["body"])["payload"]) for each in made]
    assert len({command["idempotency_key"] for command in commands}) == 4
    assert [command["allow_linked_backups_removal"] for command in commands] == [False, False, False, True]


@pytest.mark.parametrize(("status", "answer"), [(401, "no"), (200, '{"routed":false}')])
def test_the_service_now_rule_says_when_nothing_was_published(
    servicenow: Callable[..., dict[str, Any]], status: int, answer: str
) -> None:
    """A change does not wait for ever for an unlink that nobody was asked for."""
    assert "CHG1 was not published" in servicenow({"number": "CHG1"}, status, answer)["errors"][0]


def test_the_jira_request_publishes_a_command(site: Site, recipes: Path) -> None:
    """What Jira's automation sends, with its smart values filled in, is a command."""
    command = site.new_command("jira:OPS-4711")
    values = {
        "issue.key": "OPS-4711",
        "issue.Backup copy job ID": command["job"]["id"],
        "issue.Repository link ID": command["repository"]["link_id"],
        "initiator.accountId": "5b10a2844c20165700ede21g",
        "issue.url": "https://jira.example.com/browse/OPS-4711",
    }
    body = (recipes / "jira-web-request.json").read_text()
    for name, value in values.items():
        body = body.replace("{{" + name + "}}", value)
    assert "{{" not in body
    url = f"{site.broker.management_url}/api/exchanges/{site.virtual_host}/unlink.commands/publish"
    assert requests.post(url, data=body, timeout=30).json() == {"routed": True}
    data = site.outcome_of(f"jira:OPS-4711/{command['job']['id']}/{command['repository']['link_id']}")
    assert (data["outcome"], data["ticket"]["url"]) == ("succeeded", values["issue.url"])


def jira_commands(recipes: Path) -> list[dict[str, Any]]:
    """The commands of both requests of Jira, with their smart values as they are written."""
    request = json.loads((recipes / "jira-web-request.json").read_text())
    return [json.loads(request["payload"]), json.loads((recipes / "jira-console-request.json").read_text())]


def test_a_corrected_issue_is_another_request(recipes: Path) -> None:
    """An issue whose job was corrected would be a reused key for ever."""
    for command in jira_commands(recipes):
        varies = {command["job"]["id"], command["repository"]["link_id"], command["ticket"]["id"]}
        assert varies <= set(re.findall(r"{{.*?}}", command["idempotency_key"]))
