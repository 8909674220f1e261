"""Checks what the worker needs, and names the remedy for each problem. The checks change nothing.

Each module examines one part (`broker` and `management`, `ledger`, `enterprise_manager` and `certificates`) and yields
findings, the most basic one first; it stops where the next finding would follow from the last. `findings` defines a
finding, and limits the time of each part.
"""
