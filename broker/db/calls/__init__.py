"""The signatures of the functions that Redis runs for us, by room."""
