"""One engine on several machines: the remote nodes, and the watch over them."""
