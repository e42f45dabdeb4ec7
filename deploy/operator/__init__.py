"""The operator: makes each ``ModelPool`` of its namespace a pool of workers.

``plan`` decides and is pure; ``effects`` looks and acts; ``handlers`` connects both with kopf. What is done is read from the
cluster and from Penstock each time, so the operator may end anywhere and go on.
"""
