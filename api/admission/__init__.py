"""From a request to a job that may enter the queue."""
