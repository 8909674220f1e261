"""A deterministic simulation of several workers: the real core, under a virtual clock, in a world that goes wrong.

One seed decides everything: what is commanded, what fails and when, and how long each message travels. `world` is
time and processes; `broker`, `enterprise_manager` and `ledger` are the ports with the servers behind them; `worker`
puts one worker together; `scenario` is drawn from the seed; `promises` watches everything and says what was broken;
`simulation` runs one seed; `mutants` are wrong versions of the core that must be caught.
"""
