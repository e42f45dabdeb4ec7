"""What the api does for batches beside its routes: reading inputs, cutting, submitting, writing outputs, sweeping."""
