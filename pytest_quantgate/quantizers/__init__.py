"""Recipe in, checkpoint out: one file per library."""
