"""The trace of a command: passed on with all that follows from it, and recorded where a collector is set up."""

from __future__ import annotations

import asyncio
import contextvars
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pika
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.trace import NoOpTracer, get_current_span
from pydantic import SecretStr

from tests import programs
from tests.end_to_end.world import World, vendor_command
from tests.private_servers.http import Request, serving
from tests.telemetry.observed import LOOPBACK, Observed, lines
from worker.clock import SystemClock
from worker.enterprise_manager import Gateway
from worker.ledger import Inspection
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, VENDOR_LINK_ID, Fault
from worker.settings import EnterpriseManagerSettings, LedgerSettings
from worker.telemetry.metrics import Metrics
from worker.telemetry.requests import RequestMetrics
from worker.telemetry.tracing import StepSpans, outgoing_headers, read_context
from worker.unlinks.ports.enterprise_manager import EnterpriseManagerError
from worker.unlinks.ports.steps import Step, StepKind

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def send(world: World, command: dict[str, Any], headers: Mapping[str, str]) -> None:
    """Publish a command with headers."""
    with pika.BlockingConnection(pika.URLParameters(world.environment["UNLINK_BROKER__URL"])) as connection:
        properties = pika.BasicProperties(headers=dict(headers), correlation_id="INC7")
        connection.channel().basic_publish("unlink.commands", "default", json.dumps(command).encode(), properties)


@contextmanager
def event_headers(world: World) -> Iterator[list[dict[str, str]]]:
    """The headers of each event, as a list that is complete when the context ends."""
    with pika.BlockingConnection(pika.URLParameters(world.environment["UNLINK_BROKER__URL"])) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, "unlink.events", "#")
        received: list[dict[str, str]] = []
        yield received
        while True:
            method, properties, _ = channel.basic_get(queue, auto_ack=True)
            if method is None or properties is None:
                break
            received.append({name: str(value) for name, value in (properties.headers or {}).items()})


def take_up(headers: dict[str, object]) -> None:
    """What the core reports when a delivery with these headers came."""
    delivery: Any = SimpleNamespace(
        enterprise_manager="default", misrouting=None, body=b"{}", attempt=1, correlation_id=None, headers=headers
    )
    StepSpans(NoOpTracer()).report(Step(StepKind.RECEIVED, "default", delivery=delivery))


def passed_on(headers: Mapping[str, object]) -> dict[str, str]:
    """What leaves for the outside while such a delivery is worked on."""

    def within() -> dict[str, str]:
        take_up(dict(headers))
        return dict(outgoing_headers())

    return contextvars.copy_context().run(within)


# --- passing on -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"traceparent": "junk"},
        {"traceparent": 7},
        {"traceparent": b"00-" + TRACE.encode()},
        {"traceparent": f"00-{'0' * 32}-{SPAN}-01"},
        {"traceparent": f"00-{TRACE}-{'0' * 16}-01"},
        {"traceparent": f"ff-{TRACE}-{SPAN}-01"},
        {"traceparent": PARENT.upper()},
        {"traceparent": PARENT + "-more"},
    ],
)
def test_a_trace_that_cannot_be_read_is_none(headers: dict[str, object]) -> None:
    """A publisher's broken header breaks nothing, and is not passed on."""
    assert read_context(headers) == {}


def test_a_trace_travels_unchanged() -> None:
    """Who only passes a trace on stays out of it."""
    headers = {"traceparent": PARENT, "tracestate": "vendor=1,other=2"}
    assert passed_on(headers) == headers


def test_a_later_version_is_read_as_ours() -> None:
    """A caller with a newer library is not cut off; a hostile one fills no headers with its trace state."""
    later = {"traceparent": f"cc-{TRACE}-{SPAN}-00-more", "tracestate": "x" * 5000}
    assert passed_on(later) == {"traceparent": f"00-{TRACE}-{SPAN}-00"}
    context = get_current_span(read_context(later)).get_span_context()
    assert (context.is_remote, context.trace_flags.sampled) == (True, False)


def test_a_command_without_a_trace_begins_one() -> None:
    """Its lines in the log can be found all the same; no two commands share one."""
    first, second = passed_on({})["traceparent"], passed_on({})["traceparent"]
    assert first.split("-")[1] != second.split("-")[1]
    assert read_context({"traceparent": first}) != {}


def test_the_callers_trace_is_in_events_and_log(world: World) -> None:
    """Whoever traces an order through their systems finds the unlink's events and log lines in it."""
    worker = world.serve(LOOPBACK)
    with event_headers(world) as received:
        send(world, vendor_command(), {"traceparent": PARENT, "tracestate": "vendor=1"})
        world.until_ended("CHG1")
        world.until_acknowledged()
    assert received == [{"traceparent": PARENT, "tracestate": "vendor=1"}] * 2
    about_it = [line for line in lines(worker) if line.get("idempotency_key") == "CHG1"]
    assert {line["trace_id"] for line in about_it} == {TRACE}
    settings = LedgerSettings(url=SecretStr(world.environment["UNLINK_LEDGER__URL"]))
    history = Inspection(settings, SystemClock()).history("CHG1")
    assert history is not None
    assert history.trace_ids == (TRACE,)


def test_two_commands_at_once_keep_their_traces_apart(world: World) -> None:
    """Lines and events of one command are never in the trace of another."""
    worker = world.serve(LOOPBACK)
    for number in range(10):
        parent = f"00-{number + 1:032x}-{SPAN}-00"
        send(world, vendor_command(f"CHG{number}", job={"name": f"none {number}"}), {"traceparent": parent})
    world.until_ended(*(f"CHG{number}" for number in range(10)))
    for line in lines(worker):
        if "idempotency_key" in line:
            number = int(line["idempotency_key"].removeprefix("CHG"))
            assert line["trace_id"] == f"{number + 1:032x}", line
            assert line["job"] == f"none {number}", line


async def test_enterprise_manager_receives_the_trace() -> None:
    """A proxy in front of Enterprise Manager that traces shows its part in the caller's trace."""
    asked: list[dict[str, str]] = []

    def respond(request: Request) -> None:
        if request.command == "POST":
            request.send_response(201)
            request.send_header("X-RestSvcSessionId", "token")
            request.send_header("Content-Length", "0")
            request.end_headers()
        else:
            asked.append(dict(request.headers))
            request.answer(404)

    with serving(respond) as url:
        settings = EnterpriseManagerSettings.model_validate({"url": url, "username": "u", "password": "p"})
        gateway = Gateway("default", settings, SystemClock(), RequestMetrics("default", Metrics(["default"])))

        async def within() -> None:
            take_up({"traceparent": PARENT})
            with pytest.raises(EnterpriseManagerError):
                await gateway.links(VENDOR_JOB_ID)

        await asyncio.create_task(within())
        await gateway.close(log_off=False)
    assert asked[0]["traceparent"] == PARENT
    assert outgoing_headers() == {}


# --- recording ------------------------------------------------------------------------------------------------------


@contextmanager
def receiver() -> Iterator[tuple[str, list[Span], list[dict[str, str]]]]:
    """An OTLP/HTTP receiver: its address, and the spans and resources that it was sent."""
    spans: list[Span] = []
    resources: list[dict[str, str]] = []

    def respond(request: Request) -> None:
        for resource in ExportTraceServiceRequest.FromString(request.body()).resource_spans:
            resources.append({each.key: each.value.string_value for each in resource.resource.attributes})
            for scope in resource.scope_spans:
                spans.extend(scope.spans)
        request.answer(200)

    with serving(respond) as url:
        yield f"{url}/v1/traces", spans, resources


def attributes(span: Span) -> dict[str, Any]:
    """A span's attributes."""
    return {
        each.key: each.value.int_value if each.value.HasField("int_value") else each.value.string_value
        for each in span.attributes
    }


def test_an_unlink_is_one_span_with_a_child_for_each_step(world: World) -> None:
    """A person sees in one picture where the time of an unlink went; the caller's span is its parent."""
    with receiver() as (address, spans, resources):
        worker = world.serve(LOOPBACK | {"UNLINK_TRACES__ENDPOINT": address})
        with event_headers(world) as received:
            send(world, vendor_command(), {"traceparent": PARENT})
            world.until_ended("CHG1")
            world.until_acknowledged()
        worker.stop()
    (whole,) = [span for span in spans if span.name == "process unlink.commands.default"]
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE, SPAN)
    reported = attributes(whole)
    assert reported["messaging.system"] == "rabbitmq"
    assert reported["messaging.operation.type"] == "process"
    assert reported["messaging.operation.name"] == "process"
    assert reported["messaging.destination.name"] == "unlink.commands:default:unlink.commands.default"
    assert reported["messaging.rabbitmq.destination.routing_key"] == "default"
    assert reported["messaging.message.conversation_id"] == "INC7"
    assert reported["unlink.outcome"] == "succeeded"
    steps = sorted((span for span in spans if span is not whole), key=lambda span: span.start_time_unix_nano)
    assert {span.parent_span_id for span in steps} == {whole.span_id}
    names = [attributes(span)["unlink.step"] for span in steps]
    assert names == ["claim", "look", "intend", "delete", "follow", "verify", "settle", "publish"]
    assert steps[-1].name == "publish unlink.events"
    assert attributes(steps[-1])["messaging.destination.name"] == "unlink.events"
    for before, after in pairwise(steps):
        assert before.end_time_unix_nano <= after.start_time_unix_nano
    # What a consumer of the events goes on from are this worker's own spans.
    parents = {headers["traceparent"].split("-")[2] for headers in received}
    assert parents <= {span.span_id.hex() for span in steps}
    assert steps[-1].span_id.hex() in parents
    (resource,) = {tuple(sorted(each.items())) for each in resources}
    assert dict(resource)["service.name"] == "unlink-worker"


def test_a_failure_is_an_error_with_its_reason(world: World) -> None:
    """A search for failed spans finds the unlinks that failed, by their reason."""
    world.enterprise_manager.inject(Fault(kind="task_fails", method="DELETE", path=VENDOR_LINK_ID))
    with receiver() as (address, spans, _):
        worker = world.serve(LOOPBACK | {"UNLINK_TRACES__ENDPOINT": address})
        world.unlink()
        world.until_acknowledged()
        worker.stop()
    (whole,) = [span for span in spans if not span.parent_span_id]
    assert whole.status.code == whole.status.STATUS_CODE_ERROR
    assert attributes(whole)["error.type"] == "task_failed"


def test_what_the_caller_does_not_sample_is_not_recorded(world: World) -> None:
    """The caller decides about the whole trace; events carry the decision on."""
    with receiver() as (address, spans, _):
        worker = world.serve(LOOPBACK | {"UNLINK_TRACES__ENDPOINT": address})
        with event_headers(world) as received:
            send(world, vendor_command(), {"traceparent": f"00-{TRACE}-{SPAN}-00"})
            world.until_ended("CHG1")
            world.until_acknowledged()
        worker.stop()
    assert spans == []
    assert Counter(headers["traceparent"][-3:] for headers in received) == {"-00": 2}


@pytest.mark.slow
def test_a_collector_that_is_away_delays_nothing(world: World) -> None:
    """Unlinks go on, and the worker stops in time, whether or not somebody looks at spans."""
    worker = Observed(world.serve(LOOPBACK | {"UNLINK_TRACES__ENDPOINT": "http://127.0.0.1:9/v1/traces"}))
    world.unlink()
    world.until_acknowledged()
    started = time.monotonic()
    worker.worker.stop()
    assert time.monotonic() - started < 10
    assert "worker.stopped" in {line["event"] for line in lines(worker.worker)}


@pytest.mark.slow
def test_nothing_of_it_is_imported_when_it_is_off() -> None:
    """Who does not want spans needs no SDK, pays for none, and has none of its faults."""
    program = (
        "import sys\n"
        "from worker.service import Worker\n"
        "from worker.settings import Settings\n"
        "em = {'url': 'https://em', 'username': 'u', 'password': 'p'}\n"
        "Worker(Settings(broker={'url': 'amqp://u:p@host'}, ledger={'url': 'sqlite:///x'},"
        " enterprise_managers={'default': em}))\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])\n"
    )
    done = programs.run([sys.executable, "-c", program], check=True)
    assert done.stdout.strip() == "[]"


def test_asking_for_it_without_the_sdk_is_one_readable_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sets the address and did not install the extra reads how to."""
    from worker.settings import SettingsInvalidError, TracesSettings  # noqa: PLC0415 - beside what is tried
    from worker.telemetry import instruments  # noqa: PLC0415 - as above

    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delitem(sys.modules, "worker.telemetry.spans", raising=False)
    with pytest.raises(SettingsInvalidError, match=r"UNLINK_TRACES__ENDPOINT: needs .*unlink-worker\[otel\]"):
        instruments._span_export(TracesSettings(endpoint="http://collector:4318/v1/traces"), "w")  # noqa: SLF001 - its one way in
