"""Checks whether the worker would find all that it needs, and says what mends it. Nothing is changed by looking.

Each module examines one part (`broker` and `management`, `ledger`, `enterprise_manager` and `certificates`) and yields
findings as it goes, from the most basic one to the finest; it stops where the next would say nothing new. `findings`
says what a finding is, and bounds the time that a part may take.
"""
