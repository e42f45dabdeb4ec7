"""What the server's commands do: ``penstock up`` and the start of the single processes.

Needs the packages of the checkout (api, coordinator, workers and what they use); nothing of the SDK imports it.
"""
