"""Running a claimed job, and writing how it ended."""
