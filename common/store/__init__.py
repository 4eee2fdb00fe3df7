"""The job table: the only package that speaks SQL."""
