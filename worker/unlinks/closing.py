"""The closing text of a ticket: a close code for programs, and one sentence for a person."""

from __future__ import annotations

from contracts.events import MAX_SUMMARY, CloseCode, EventData, Evidence, Outcome

#: The most characters of one name in a summary; the names of a job and of a repository may have 255 each.
_MAX_NAME = 80


def closed(data: EventData) -> EventData:
    """The event's data with `summary` and `close_code`, which follow from its other fields."""
    return data.model_copy(update={"summary": _summary(data), "close_code": _close_code(data)})


def _close_code(data: EventData) -> CloseCode | None:
    match data.outcome:
        case Outcome.SUBMITTED:
            return None
        case Outcome.SUCCEEDED:
            return CloseCode.DONE if data.changed else CloseCode.NOTHING_TO_DO
        case Outcome.PLANNED if data.reason is not None:
            return CloseCode.REFUSED
        case Outcome.PLANNED:
            return CloseCode.NOTHING_TO_DO if data.evidence is Evidence.ABSENT else CloseCode.NOT_DONE
    if data.changed is None:
        return CloseCode.UNKNOWN
    return CloseCode.REFUSED if data.outcome is Outcome.REJECTED else CloseCode.NOT_DONE


def _summary(data: EventData) -> str:
    ticket = f"{_short(data.ticket.system)} {_short(data.ticket.id)}: " if data.ticket is not None else ""
    sentence = _sentence(data)
    text = f"{ticket}{sentence[0].upper()}{sentence[1:]}"
    if data.reason is not None:
        text = f"{text}: {data.reason.message}"
    text = " ".join(text.split()).rstrip(".")
    return f"{text}." if len(text) < MAX_SUMMARY else f"{text[: MAX_SUMMARY - 1]}…"


def _sentence(data: EventData) -> str:
    link = _link(data)
    match data.outcome:
        case Outcome.SUBMITTED:
            return f"Enterprise Manager has started to remove {link}"
        case Outcome.SUCCEEDED:
            return _success(data, link)
        case Outcome.PLANNED:
            return f"Dry run: {_plan(data, link)}"
        case _:
            return _failure(data, link)


def _failure(data: EventData, link: str) -> str:
    if data.outcome is Outcome.CANCELLED:
        still_there = data.changed is False
        return (
            f"the unlink was cancelled, {f'and {link} was not' if still_there else f'but {link} may still be'} removed"
        )
    if data.changed is None:
        return f"it is not known whether {link} is gone"
    if data.outcome is not Outcome.REJECTED:
        return f"{link} was not removed"
    named = data.job is not None and data.repository is not None
    return f"the command to remove {link} was rejected" if named else "the command was rejected"


def _success(data: EventData, link: str) -> str:
    if not data.changed:
        return f"there was nothing to remove, because the job does not list {link}"
    removed = f"{link} was removed{_with_backups(data)}"
    if data.evidence is Evidence.LINKS:
        return f"{removed}; the job no longer lists it"
    return f"{removed}; the task succeeded, and the job {'no longer lists it' if data.verified else 'still listed it'}"


def _plan(data: EventData, link: str) -> str:
    if data.reason is not None:
        return f"{link} would not be removed"
    if data.evidence is Evidence.ABSENT:
        return f"there is nothing to remove, because the job does not list {link}"
    return f"{link} would be removed{_with_backups(data)}"


def _with_backups(data: EventData) -> str:
    match len(data.linked_backups_removed):
        case 0:
            return ""
        case 1:
            return " with 1 linked backup"
        case several:
            return f" with {several} linked backups"


def _link(data: EventData) -> str:
    job, repository = data.job, data.repository
    if job is None or repository is None:
        return "the link"
    job_name = f"job '{_short(job.name or job.id or '')}'"
    if name := repository.name or repository.uid:
        return f"the link of repository '{_short(name)}' to {job_name}"
    return f"the link {repository.link_id} of {job_name}"


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…"
