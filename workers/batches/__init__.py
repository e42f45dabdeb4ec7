"""Running a batch's chunk row by row."""
