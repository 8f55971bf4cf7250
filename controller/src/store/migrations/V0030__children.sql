-- The runs that a run has started: a bulk job shows each of its parts.
CREATE INDEX run_by_parent ON run (parent_run_id) WHERE parent_run_id IS NOT NULL;
