"""Drives batches in a process of its own: validates inputs, submits chunks, writes outputs, deletes expired objects.

Any number of coordinators may run. Each batch and each task is leased to one of them; if that one dies, another takes over
when the lease has run out.
"""
