-- Policies that VMs get by what they are.
CREATE TABLE named_policy (
  name           TEXT PRIMARY KEY,
  select_json    TEXT NOT NULL,
  policy_json    TEXT NOT NULL,
  updated_ms     INTEGER NOT NULL,
  updated_by     TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The named policy whose selector gave it to the VM; NULL: a person has set it for this VM. The name of
-- one that was removed stays: the VM keeps its policy.
ALTER TABLE policy ADD COLUMN origin TEXT;
ALTER TABLE policy ADD COLUMN origin_problem TEXT;            -- why `origin` is not followed any more
ALTER TABLE policy ADD COLUMN tag_written_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE policy ADD COLUMN tag_drift_json TEXT;            -- what the tag shows instead; NULL: it mirrors

-- The newest runs of a workflow for a VM.
CREATE INDEX run_by_item_and_workflow ON run (item_id, workflow, id);
