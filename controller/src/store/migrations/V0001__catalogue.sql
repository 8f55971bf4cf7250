-- The catalogue, the journal and everything else that must survive the controller.
-- Times are milliseconds since 1970 (UTC), names end in _ms. Names ending in _json hold documents
-- that the code reads as a whole; what is searched or joined has a column of its own.

-- Which cloud this database belongs to (I11): one row, written by `init`.
CREATE TABLE stamp (
  only_row       INTEGER PRIMARY KEY CHECK (only_row = 1),
  cloud          TEXT NOT NULL,
  tenant_id      TEXT NOT NULL,
  subscriptions_json TEXT NOT NULL,
  installation   TEXT NOT NULL,                 -- random: tells this database's resources from another's
  created_ms     INTEGER NOT NULL
) STRICT;

-- Protected things: VMs today, databases and clusters later.
CREATE TABLE item (
  id             INTEGER PRIMARY KEY,
  kind           TEXT NOT NULL CHECK (kind IN ('vm')),
  arm_key        TEXT NOT NULL UNIQUE,          -- canonical, lower case
  arm_id         TEXT NOT NULL,                 -- as Azure writes it
  location       TEXT NOT NULL,
  vm_guid        TEXT,                          -- Azure's vmId, lower case
  created_ms     INTEGER NOT NULL
) STRICT;

CREATE TABLE policy (
  item_id        INTEGER PRIMARY KEY REFERENCES item (id),
  policy_json    TEXT NOT NULL,
  enabled        INTEGER NOT NULL,
  enabled_since_ms INTEGER NOT NULL,
  tag_problem    TEXT,                          -- why the VM's tag does not mirror it
  updated_ms     INTEGER NOT NULL,
  updated_by     TEXT NOT NULL
) STRICT;

-- A recovery point: all disks of a VM at one time, and the VM's description at that time.
CREATE TABLE point (
  id             INTEGER PRIMARY KEY,
  item_id        INTEGER NOT NULL REFERENCES item (id),
  name           TEXT NOT NULL,
  region         TEXT NOT NULL,
  created_ms     INTEGER NOT NULL,
  tiers_json     TEXT NOT NULL,
  consistency    TEXT NOT NULL,
  consistency_reason TEXT NOT NULL,
  frozen_ms      INTEGER NOT NULL,
  size_bytes     INTEGER NOT NULL,
  operation_id   TEXT NOT NULL,
  nonce          TEXT NOT NULL,
  description_json TEXT NOT NULL,
  run_id         INTEGER NOT NULL,
  pruned_by      INTEGER,                       -- the run that is deleting it: no new leases
  UNIQUE (item_id, name)
) STRICT;
CREATE INDEX point_by_item ON point (item_id, created_ms);
CREATE INDEX point_by_name ON point (name);

-- One disk of a recovery point in one region: the original or a copy.
CREATE TABLE snapshot (
  id             INTEGER PRIMARY KEY,
  point_id       INTEGER NOT NULL REFERENCES point (id) ON DELETE CASCADE,
  region         TEXT NOT NULL,
  lun            INTEGER NOT NULL,              -- -1: OS disk
  arm_key        TEXT NOT NULL UNIQUE,
  arm_id         TEXT NOT NULL,
  source_disk_id TEXT NOT NULL,
  source_disk_unique_id TEXT NOT NULL,
  size_bytes     INTEGER NOT NULL,
  UNIQUE (point_id, region, lun)
) STRICT;

-- A recovery point's copy in another region.
CREATE TABLE replica (
  point_id       INTEGER NOT NULL REFERENCES point (id) ON DELETE CASCADE,
  region         TEXT NOT NULL,
  state          TEXT NOT NULL CHECK (state IN ('queued', 'copying', 'complete', 'failed')),
  run_id         INTEGER NOT NULL,
  started_ms     INTEGER NOT NULL,
  finished_ms    INTEGER,
  error          TEXT,
  PRIMARY KEY (point_id, region)
) STRICT;

-- Every attempt to prove a recovery point, passed or not.
CREATE TABLE proof (
  run_id         INTEGER NOT NULL,
  point_id       INTEGER NOT NULL REFERENCES point (id) ON DELETE CASCADE,
  region         TEXT NOT NULL,
  level          TEXT NOT NULL CHECK (level IN ('restorable', 'booted', 'content')),
  passed         INTEGER NOT NULL,
  at_ms          INTEGER NOT NULL,
  detail         TEXT NOT NULL,
  PRIMARY KEY (run_id, point_id, region)
) STRICT;
CREATE INDEX proof_by_point ON proof (point_id, at_ms);

-- DR tests, failed ones included; kept when the point is gone.
CREATE TABLE drill (
  run_id         INTEGER PRIMARY KEY,
  item_id        INTEGER NOT NULL REFERENCES item (id),
  point_name     TEXT NOT NULL,
  region         TEXT NOT NULL,
  started_ms     INTEGER NOT NULL,
  finished_ms    INTEGER NOT NULL,
  passed         INTEGER NOT NULL,
  rto_ms         INTEGER,
  error          TEXT
) STRICT;
CREATE INDEX drill_by_item ON drill (item_id, started_ms);

-- One execution of a workflow.
CREATE TABLE run (
  id             INTEGER PRIMARY KEY,
  workflow       TEXT NOT NULL,
  version        INTEGER NOT NULL,
  input_json     TEXT NOT NULL,
  state          TEXT NOT NULL CHECK (state IN
                   ('queued', 'running', 'undoing', 'stuck', 'succeeded', 'failed', 'cancelled')),
  priority       INTEGER NOT NULL,              -- smaller goes first
  item_id        INTEGER REFERENCES item (id),
  parent_run_id  INTEGER REFERENCES run (id),
  requested_by   TEXT NOT NULL,
  created_ms     INTEGER NOT NULL,
  started_ms     INTEGER,
  finished_ms    INTEGER,
  cancel_requested INTEGER NOT NULL DEFAULT 0,
  waiting_for    TEXT,
  error_json     TEXT,
  result_json    TEXT
) STRICT;
CREATE INDEX run_by_state ON run (state, priority, id);
CREATE INDEX run_by_item ON run (item_id, id);

-- What every run has begun, finished and undone, in order.
CREATE TABLE journal (
  run_id         INTEGER NOT NULL REFERENCES run (id),
  seq            INTEGER NOT NULL,
  at_ms          INTEGER NOT NULL,
  step           TEXT NOT NULL,
  item           TEXT NOT NULL,                 -- '' unless the step is an `each`
  event          TEXT NOT NULL,
  payload_json   TEXT NOT NULL,
  PRIMARY KEY (run_id, seq)
) STRICT, WITHOUT ROWID;

-- Held by runs, taken all at once; the epoch is a fencing token that only grows.
CREATE TABLE lock (
  key            TEXT PRIMARY KEY,
  run_id         INTEGER NOT NULL REFERENCES run (id),
  epoch          INTEGER NOT NULL,
  taken_ms       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE lock_epoch (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), epoch INTEGER NOT NULL) STRICT;
INSERT INTO lock_epoch VALUES (1, 0);

-- Holds on recovery points; a run's leases end only when the run does.
CREATE TABLE lease (
  point_id       INTEGER NOT NULL REFERENCES point (id) ON DELETE RESTRICT,
  run_id         INTEGER NOT NULL REFERENCES run (id),
  taken_ms       INTEGER NOT NULL,
  PRIMARY KEY (point_id, run_id)
) STRICT, WITHOUT ROWID;

-- Disks that a restore has replaced; kept until then.
CREATE TABLE kept_disk (
  arm_key        TEXT PRIMARY KEY,
  arm_id         TEXT NOT NULL,
  item_id        INTEGER NOT NULL REFERENCES item (id),
  run_id         INTEGER NOT NULL,
  kept_until_ms  INTEGER NOT NULL
) STRICT;

-- Certificates of agents. `scope` 'vm' is a VM's own identity, 'run' is good for one run only.
CREATE TABLE agent_certificate (
  serial         TEXT PRIMARY KEY,
  item_id        INTEGER NOT NULL REFERENCES item (id),
  scope          TEXT NOT NULL CHECK (scope IN ('vm', 'run')),
  run_id         INTEGER,
  issued_ms      INTEGER NOT NULL,
  not_after_ms   INTEGER NOT NULL,
  superseded_ms  INTEGER,
  revoked_ms     INTEGER
) STRICT;
CREATE INDEX agent_certificate_by_item ON agent_certificate (item_id, issued_ms);

-- What is last known of each VM's own agent; heartbeats stay in memory.
CREATE TABLE agent (
  item_id        INTEGER PRIMARY KEY REFERENCES item (id),
  version        TEXT NOT NULL,
  boot_id        TEXT NOT NULL,
  last_hello_ms  INTEGER NOT NULL
) STRICT;

-- One-time tokens, as SHA-256 only.
CREATE TABLE enrolment_token (
  hash           TEXT PRIMARY KEY,
  item_id        INTEGER NOT NULL REFERENCES item (id),
  created_by     TEXT NOT NULL,
  created_ms     INTEGER NOT NULL,
  expires_ms     INTEGER NOT NULL,
  used_ms        INTEGER
) STRICT;

-- Restored instances that a run waits for, by the vmId that Azure reported.
CREATE TABLE expected_instance (
  vm_guid        TEXT PRIMARY KEY,
  item_id        INTEGER NOT NULL REFERENCES item (id),
  run_id         INTEGER NOT NULL REFERENCES run (id),
  durable        INTEGER NOT NULL,              -- its certificate becomes the VM's own
  own_item_id    INTEGER REFERENCES item (id)   -- the VM that it becomes, if a new one
) STRICT;

CREATE TABLE operator (
  name           TEXT PRIMARY KEY,
  role           TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
  certificate_serial TEXT NOT NULL,
  created_ms     INTEGER NOT NULL,
  revoked_ms     INTEGER
) STRICT;
