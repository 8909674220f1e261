"""What a policy allows, what it denies, and whom it believes."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from contracts.commands import CancelCommand, UnlinkCommand
from worker.broker.senders import SENDER_HEADER, sender_of, signed_by_forwarder, signed_by_worker
from worker.unlinks.policy import DeniedError, Policy, PolicyInvalidError, read_policy
from worker.unlinks.ports.enterprise_manager import Job

FRANKFURT = "d1b85018-2769-45be-89bc-03f66b60e6cb"
OTHER = "0c4ac4fb-5ca8-45ac-a5c5-a2e6b2a4a4d1"
LINK = "27a1d57f-7c15-43c6-9162-d05aff1c9bb9"

POLICY = """
forwarders = ["operator"]

[[rules]]
users = ["snow", "jira-*"]
enterprise_managers = ["default", "lab-*"]
jobs = ["Copy to *", "urn:veeam:Job:D1B85018-2769-45BE-89BC-03F66B60E6CB"]

[[rules]]
users = ["admin"]
linked_backups_removal = true
cancels = true

[[rules]]
unnamed = true
enterprise_managers = ["lab-1"]
"""


@pytest.fixture
def policy() -> Policy:
    """One with three rules."""
    return read_policy(POLICY)


def command(**changes: Any) -> UnlinkCommand:
    """A command that names its job by name."""
    content: dict[str, Any] = {
        "command": "unlink.v1",
        "idempotency_key": "K",
        "job": {"name": "Copy to Frankfurt"},
        "repository": {"link_id": LINK},
        **changes,
    }
    return UnlinkCommand.model_validate(content)


CANCEL = CancelCommand.model_validate({"command": "cancel.v1", "idempotency_key": "K"})


# --- by what the command says ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user_id", "changes"),
    [
        ("snow", {}),
        ("jira-ops", {}),
        ("snow", {"job": {"id": FRANKFURT}}),
        ("snow", {"enterprise_manager": "lab-7"}),
        ("admin", {"job": {"id": OTHER}, "enterprise_manager": "anything"}),
        ("admin", {"allow_linked_backups_removal": True}),
        (None, {"enterprise_manager": "lab-1", "job": {"id": OTHER}}),
    ],
)
def test_what_a_rule_allows_passes_without_a_look(policy: Policy, user_id: str | None, changes: dict[str, Any]) -> None:
    """A rightful command would be turned away, or cost Enterprise Manager a request more."""
    assert policy.is_decided(user_id, command(**changes))


@pytest.mark.parametrize(
    ("user_id", "changes"),
    [
        ("mallory", {}),
        ("SNOW", {}),
        (None, {}),
        ("jira-ops", {"enterprise_manager": "production"}),
        ("snow", {"allow_linked_backups_removal": True}),
        (None, {"enterprise_manager": "lab-1", "allow_linked_backups_removal": True}),
    ],
)
def test_what_no_rule_allows_is_denied_without_a_look(
    policy: Policy, user_id: str | None, changes: dict[str, Any]
) -> None:
    """Somebody would unlink, or have linked backups dropped, who may not."""
    with pytest.raises(DeniedError):
        policy.is_decided(user_id, command(**changes))


def test_two_rules_do_not_add_up_to_what_neither_allows() -> None:
    """The right to drop linked backups of one job would spill over to another job."""
    policy = read_policy(
        '[[rules]]\nusers = ["a"]\njobs = ["One"]\nlinked_backups_removal = true\n[[rules]]\nusers = ["a"]\n'
    )
    assert policy.is_decided("a", command(job={"name": "One"}, allow_linked_backups_removal=True))
    assert policy.is_decided("a", command(job={"name": "Two"}))
    with pytest.raises(DeniedError, match="with allow_linked_backups_removal for this job"):
        policy.is_decided("a", command(job={"name": "Two"}, allow_linked_backups_removal=True))


def test_a_cancel_needs_a_rule_of_its_own(policy: Policy) -> None:
    """Whoever may order one unlink could stop everybody else's."""
    policy.require_cancel("admin", "default")
    for user_id in ("snow", "mallory", None):
        with pytest.raises(DeniedError, match="cancel"):
            policy.require_cancel(user_id, "default")


# --- by a look at the job -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "allowed"),
    [
        (Job(OTHER, "Copy to Paris"), True),
        (Job(FRANKFURT, "Renamed"), True),
        (Job(OTHER, "Paris"), False),
        (Job(OTHER, "copy to Paris"), False),
        (Job(OTHER, None), False),
    ],
)
def test_a_job_named_by_id_is_judged_by_its_name(policy: Policy, job: Job, *, allowed: bool) -> None:
    """A rule by name could be got round by naming the job by its ID."""
    by_id = command(job={"id": OTHER})
    assert not policy.is_decided("snow", by_id)
    if allowed:
        policy.require_job("snow", by_id, job)
    else:
        with pytest.raises(DeniedError, match="for this job"):
            policy.require_job("snow", by_id, job)


def test_a_job_named_by_name_is_judged_by_its_id(policy: Policy) -> None:
    """A rule by ID would be of no use to those who name jobs by name."""
    by_name = command(job={"name": "Frankfurt"})
    assert not policy.is_decided("snow", by_name)
    policy.require_job("snow", by_name, Job(FRANKFURT, "Frankfurt"))
    with pytest.raises(DeniedError):
        policy.require_job("snow", by_name, Job(OTHER, "Frankfurt"))


def test_no_look_where_no_look_can_help() -> None:
    """Anybody could make Enterprise Manager look at job after job."""
    by_names = read_policy('[[rules]]\nusers = ["a"]\njobs = ["Copy *"]\n')
    with pytest.raises(DeniedError):
        by_names.is_decided("a", command(job={"name": "Backup"}))
    by_ids = read_policy(f'[[rules]]\nusers = ["a"]\njobs = ["{FRANKFURT}"]\n')
    with pytest.raises(DeniedError):
        by_ids.is_decided("a", command(job={"id": OTHER}))


# --- the file -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "rules: missing"),
        ("[[rules]\n", "it is not TOML"),
        ("[[rules]]\nusers = []\n", "a rule needs users, or unnamed = true"),
        ("[[rules]]\njobs = ['*']\n", "a rule needs users, or unnamed = true"),
        ("[[rules]]\nuser = ['a']\n", "rules.0.user: unknown field"),
        ("[[rules]]\nusers = 'a'\n", "rules.0.users: Input should be a valid list"),
        ("[[rules]]\nusers = ['']\n", "rules.0.users.0"),
        ("[[rules]]\nusers = ['a']\ncancels = 'yes'\n", "rules.0.cancels: Input should be a valid boolean"),
        ("[[rules]]\nusers = ['a']\njobs = []\n", "rules.0.jobs"),
        ("[[rules]]\nusers = ['a']\n[rule]\n", "rule: unknown field"),
        ("#" * 2_000_000, "longer"),
    ],
)
def test_a_wrong_policy_is_refused_in_one_line(text: str, said: str) -> None:
    """A misspelt rule would deny what it should allow, or the other way round, and nobody would know."""
    with pytest.raises(PolicyInvalidError) as caught:
        read_policy(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_policy_without_rules_denies_everything() -> None:
    """Nothing but a missing file means that everybody may do everything."""
    with pytest.raises(DeniedError):
        read_policy("rules = []").is_decided("admin", command())


# --- the sender -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user_id", "reported", "sender"),
    [
        ("snow", None, "snow"),
        (None, None, None),
        ("worker", "snow", "snow"),
        ("worker", None, "worker"),
        # forged, by whoever may publish
        ("mallory", "admin", "mallory"),
        (None, "admin", None),
        (None, ["admin", "worker"], None),
        # a replay by an operator of what a worker had put aside; of what never was a worker's; of what was unsigned
        ("operator", ["snow", "worker"], "snow"),
        ("operator", ["admin", "mallory"], "mallory"),
        ("operator", ["admin", None], None),
        ("stranger", ["snow", "worker"], "stranger"),
        # what makes no sense
        ("worker", 7, None),
        ("worker", [], "worker"),
        ("worker", [["snow"]], None),
        ("worker", ["worker", "worker"], "worker"),
    ],
)
def test_the_sender_is_who_the_broker_or_a_forwarder_vouches_for(
    user_id: str | None, reported: object, sender: str | None
) -> None:
    """Anybody could give orders in somebody else's name by writing a header."""
    headers = {} if reported is None else {SENDER_HEADER: reported}
    assert sender_of(user_id, headers, {"worker", "operator"}) == sender


@pytest.mark.parametrize("original", ["snow", "worker", None])
@pytest.mark.parametrize("forwarders", [{"worker"}, {"worker", "operator"}])
def test_a_sender_survives_every_kind_of_copy(original: str | None, forwarders: Collection[str]) -> None:
    """A command that had to wait would be judged as if somebody else had sent it."""
    user_id, headers = original, dict[str, Any]()
    for _ in range(3):  # through delay queues, and at last into the dead letters
        user_id, headers = signed_by_worker(sender_of(user_id, headers, forwarders), "worker")
        assert sender_of(user_id, headers, forwarders) == original
    user_id, headers = signed_by_forwarder(user_id, headers, "operator")
    believed = "operator" in forwarders or original is None
    assert sender_of(user_id, headers, forwarders) == (original if believed else "operator")


def test_a_replay_launders_no_forged_header() -> None:
    """A message with a forged sender would become genuine by way of the dead letters."""
    user_id, headers = signed_by_forwarder("mallory", {SENDER_HEADER: "admin"}, "operator")
    assert sender_of(user_id, headers, {"worker", "operator"}) == "mallory"
    assert signed_by_forwarder(None, {SENDER_HEADER: "admin"}, "operator") == (None, {})


def test_the_policy_in_the_readme_is_one() -> None:
    """Whoever copies it would find that the worker does not start."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    blocks = (after.partition("```")[0] for after in readme.split("```toml\n")[1:])
    (text,) = (block for block in blocks if "[[rules]]" in block)
    policy = read_policy(text)
    assert policy.is_decided("jira-ops", command())
    assert policy.is_decided(None, command(enterprise_manager="lab"))
