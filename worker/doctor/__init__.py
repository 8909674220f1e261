"""Checks the worker's prerequisites, and names the remedy for each problem. The checks change nothing.

Each module examines one part (`broker` and `management`, `ledger`, `enterprise_manager` and `certificates`) and yields
findings, the most basic one first. After a problem, it leaves out the checks that would fail for the same reason.
`findings` defines a finding, and limits the time of each part.
"""
