"""What must become of an unlink where nothing goes wrong. A worker that fails every command would lose none."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from contracts.events import Evidence, Outcome, event_id
from tests.simulation.scenario import REFUSED, Scenario

if TYPE_CHECKING:
    from tests.simulation.promises import Observer, Story

#: Faults that an unlink does not notice.
HARMLESS = {"sinks_break", REFUSED}
#: A task and its verification end by then where nothing goes wrong, in seconds.
ENOUGH_SECONDS = 60


def shortfall(observer: Observer, story: Story, scenario: Scenario, published: Collection[str]) -> str | None:
    """What an untroubled unlink lacks; None if nothing, or if the unlink was not untroubled.

    Args:
        observer: what was true in the run.
        story: the key of the unlink.
        scenario: what the run began with.
        published: the IDs of all published events.
    """
    if not _untroubled(observer, story, scenario):
        return None
    observer.situations["untroubled"] += 1
    if (story.outcome, story.evidence, story.changed, story.removed) != (Outcome.SUCCEEDED, Evidence.TASK, True, 1):
        return f"{story.key} was untroubled, and is {story.outcome}, evidence {story.evidence}, changed {story.changed}"
    if "submitted" not in scenario.refused and event_id(story.key, Outcome.SUBMITTED) not in published:
        return f"{story.key} was untroubled, and nothing was published of its task"
    return None


def _untroubled(observer: Observer, story: Story, scenario: Scenario) -> bool:
    """Whether the link was there at the claim and was removed for no other key, without any fault, cancel or limit."""
    command = story.command
    drawn = next((job for job in scenario.jobs if command.job.id == job.id or command.job.name == job.name), None)
    if (
        drawn is None
        or not drawn.copies
        or scenario.faults - HARMLESS
        or story.run > 1
        or observer.is_cancelled(story.key)
    ):
        return False
    if command.not_after is not None or command.timeout_seconds < ENOUGH_SECONDS or "longest_task" in scenario.weather:
        return False
    if drawn.backups and not command.allow_linked_backups_removal:
        return False
    named = command.repository.link_id
    uid = None if named else observer.uid_of(command)
    for link in observer.server.jobs[drawn.id].links.values():
        if named == link.object_in_job_id or uid == link.uid:
            for span in link.present:
                if span.start <= story.claimed_at and (span.end is None or span.end > story.claimed_at):
                    return not observer.removed_for_another(story, link.object_in_job_id)
    return False
