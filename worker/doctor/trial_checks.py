"""What a trial has found out, check by check, and what the ends of its tasks tell."""

from __future__ import annotations

from worker.doctor.checks import Check, Result
from worker.doctor.edits import Edit
from worker.enterprise_manager.assumptions import Assumption

#: What a trial can find out, and the reason if it did not.
SHOWN_BY_A_TRIAL = {
    Assumption.TASK_STATES: "no task was seen",
    Assumption.DELETE_ACCEPTED: "no DELETE was answered",
    Assumption.LOCATION: "no DELETE and POST were accepted",
    Assumption.RUNNING_RESULT: "no task was seen running",
    Assumption.FINISHED_RESULT: "no task was seen to end",
    Assumption.SUCCESS_MESSAGE: "no message of a task that succeeded was seen",
    Assumption.LINK_GOES: "no task was OperationFinished for long enough to read the list",
    Assumption.LIST_IN_TIME: "no removal was seen to end",
    Assumption.TASK_KEPT: "no task was seen to end in a session that was kept",
    Assumption.TASK_APART: "there was no task, or no other session",
    Assumption.TASK_DELETE: "no task was stopped",
    Assumption.TASK_DELETE_STOPS: "the task may have ended before it was stopped",
    Assumption.FAILED_RESULT: "no task failed",
    Assumption.FAILING_SEEMS_SUCCESSFUL: "no task that failed was seen OperationFinished before",
    Assumption.ABSENT_LINK: "no link was removed",
    Assumption.ONLY_LINK: "the job has other links",
    Assumption.RUNNING_JOB: "no backup session of the job was working",
    Assumption.EDITS_OF_ONE_JOB: "the first of two edits had ended before the second began",
    Assumption.DROPS_BACKUPS: "no trial is made on a job with linked backups",
    Assumption.SESSIONS: "no second session was tried",
    Assumption.SESSION_IDLE: "no session was left idle",
}


class TrialChecks:
    """The checks of one trial. A difference outweighs a confirmation; of several, the first is kept."""

    def __init__(self) -> None:
        self._checks: dict[Assumption, Check] = {}

    def all(self, over: str) -> list[Check]:
        """Each check once. `over` says why the trial did not go on, if it did not."""
        return [
            self._checks.get(assumption, Check(assumption, Result.NOT_SHOWN, over or reason))
            for assumption, reason in SHOWN_BY_A_TRIAL.items()
        ]

    def confirm(self, assumption: Assumption, seen: str = "") -> None:
        """The assumption holds, as far as this was seen."""
        self._checks.setdefault(assumption, Check(assumption, Result.CONFIRMED, seen))

    def not_shown(self, assumption: Assumption, why: str) -> None:
        """The trial came to it, but could not tell."""
        self._checks.setdefault(assumption, Check(assumption, Result.NOT_SHOWN, why))

    def differs(self, assumption: Assumption, seen: str) -> None:
        """The assumption does not hold."""
        known = self._checks.get(assumption)
        if known is None or known.result is not Result.DIFFERENT:
            self._checks[assumption] = Check(assumption, Result.DIFFERENT, seen)

    def refused(self, why: str) -> None:
        """The account may not edit jobs: nothing else can be found out."""
        for assumption in SHOWN_BY_A_TRIAL:
            self._checks.setdefault(assumption, Check(assumption, Result.NOT_WITH_ACCOUNT, why))

    def confirmed(self, assumption: Assumption) -> bool:
        """Whether the assumption was found to hold."""
        known = self._checks.get(assumption)
        return known is not None and known.result is Result.CONFIRMED

    # --- ends of tasks ------------------------------------------------------------------------------------------------

    def judge_end(self, edit: Edit) -> None:
        """Compare the result of a finished task with what is expected."""
        if edit.task is None or not edit.finished:
            return
        if edit.failed:
            self.judge_failure(edit)
        elif edit.task.success is None:
            self.differs(Assumption.FINISHED_RESULT, "its result is null" if edit.names_result else "it has no result")
        elif edit.task.message is None:
            self.differs(Assumption.FINISHED_RESULT, "its result has no message")
        else:
            self.confirm(Assumption.FINISHED_RESULT)
            self._judge_message(edit.task.message)

    def _judge_message(self, message: str) -> None:
        if message == "Ok":
            self.confirm(Assumption.SUCCESS_MESSAGE)
        else:
            text = f'it is "{message}"' if message.casefold() == "ok" else "it is another text"
            self.differs(Assumption.SUCCESS_MESSAGE, text)

    def judge_failure(self, edit: Edit) -> None:
        """Compare the result of a task that failed, and what it showed before, with what is expected."""
        if edit.asks:
            self.differs(Assumption.FAILED_RESULT, f"it also asks for {edit.asks}")
        elif edit.task is not None and edit.task.message is None:
            self.differs(Assumption.FAILED_RESULT, "its result has no message")
        else:
            self.confirm(Assumption.FAILED_RESULT)
        if edit.success_before is True:
            self.confirm(Assumption.FAILING_SEEMS_SUCCESSFUL)
        elif edit.success_before is not None:
            self.differs(Assumption.FAILING_SEEMS_SUCCESSFUL, "it had Success=false then")
