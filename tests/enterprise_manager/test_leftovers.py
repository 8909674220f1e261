"""What a request that failed leaves behind: no document, and no answer, that only a search for cycles would find."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from tests.enterprise_manager.ids import JOB, LINK, UID
from tests.enterprise_manager.sending import at_any_time
from tests.enterprise_manager.test_hostile_answers import Answers, framed
from tests.garbage import alive, without_search
from tests.waiting import until
from worker.enterprise_manager import Gateway
from worker.enterprise_manager.documents import tree
from worker.enterprise_manager.documents.tree import Node
from worker.enterprise_manager.permission import Permission
from worker.enterprise_manager.transport import Answer
from worker.unlinks.ports.enterprise_manager import EnterpriseManagerError

_LONG = b"<EntityReferences>" + b'<Ref Name="Scale-out 3" Type="RepositoryReference"/>' * 3000

ANSWERS = {
    "long, and cut": framed(200, _LONG),
    "short, and cut": framed(200, _LONG[:500]),
    "with too many fields": framed(200, _LONG + b'<a b="c"/>' * 10_000),
    "JSON, and cut": framed(200, b"[" + b'{"Name": "Scale-out 3"},' * 8000),
    "an error": framed(500, b"<Error><Message>The service is starting.</Message></Error>"),
    "broken off": framed(200, _LONG)[:-5],
    "readable": framed(200, _LONG + b"</EntityReferences>"),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=list(ANSWERS))
async def test_an_answer_is_freed_with_its_request(
    serve: Any, settings_for: Any, clock: Any, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long list that cannot be read was kept each time that it was asked for: a worker had 1.1 GB of them."""
    monkeypatch.setattr(tree, "MAX_NODES", 20_000)  # a busy machine reads the real limit for longer than it may take
    answers = Answers()
    answers.next = answer
    server = serve(answers, tls=None)
    gateway = Gateway("lab", settings_for(server.port, url=f"http://127.0.0.1:{server.port}"), clock)
    asked: list[Callable[[], Any]] = [
        lambda: gateway.names("Repository"),
        lambda: gateway.repository_name(UID),
    ]
    with without_search():
        before = alive(Node, Answer)
        for ask in asked:
            with suppress(EnterpriseManagerError):
                await ask()
        await gateway.close(log_off=False)
        # A request that was given up is read to its end.
        await until(lambda: alive(Node, Answer) <= before, "what was read is freed")


async def test_a_permission_is_freed_with_its_delete(gateway: Gateway) -> None:
    """Each idle thread kept that of its last DELETE, and so the unlink with its deliveries."""
    with without_search():
        before = alive(Permission)
        await gateway.delete_link(JOB, LINK, at_any_time)
        await until(lambda: alive(Permission) <= before, "the permission is freed")
