"""Load on a model server, and what its callers saw: ``penstock bench``. It needs httptools, the extra ``bench``."""
