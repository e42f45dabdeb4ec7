"""What wraps every request: metrics and traces."""
