"""Operating the service: queues, workers, health and metrics."""
