"""The pure core of Penstock: jobs and batches, and the rules of their lives.

It does no I/O, reads no clock (``now`` is an argument) and imports no other package of ours.
"""
