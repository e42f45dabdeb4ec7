"""The pure core of Penstock: what a job is and what may happen to it.

Nothing here does I/O, reads a clock or imports another package of ours: ``now`` is always an argument.
"""
