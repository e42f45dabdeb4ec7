"""The console at ``/console``: pages for people, made of what the REST API answers to their own credentials."""
