"""The client without I/O: requests, replies, flows and streams as pure code, and the drivers that carry them out."""
