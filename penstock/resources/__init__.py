"""The calls of the client by what they are about: ``client.jobs``, ``client.pools`` and so on."""
