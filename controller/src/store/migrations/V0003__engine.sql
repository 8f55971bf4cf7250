-- Each start of a controller takes the next epoch; an older controller's engine cannot write any more.
CREATE TABLE controller_epoch (
  only_row       INTEGER PRIMARY KEY CHECK (only_row = 1),
  epoch          INTEGER NOT NULL
) STRICT;
INSERT INTO controller_epoch VALUES (1, 0);

-- Filled and emptied again to see whether the database can be written.
CREATE TABLE write_probe (content BLOB NOT NULL) STRICT;

ALTER TABLE run ADD COLUMN waiting_for_job INTEGER;           -- holds a lock that this one needs
ALTER TABLE run ADD COLUMN spent_ms INTEGER NOT NULL DEFAULT 0; -- driven for so long, by monotonic clocks

-- A step that is being called again and again: one row, not one entry per call.
CREATE TABLE repetition (
  run_id         INTEGER NOT NULL REFERENCES run (id),
  step           TEXT NOT NULL,
  item           TEXT NOT NULL,
  attempts       INTEGER NOT NULL,              -- failures in a row
  failing_ms     INTEGER NOT NULL,              -- time since the first of them
  spent_ms       INTEGER NOT NULL,              -- time since the step began
  pause_ms       INTEGER NOT NULL,              -- the pause that had begun, and
  not_before_ms  INTEGER NOT NULL,              -- when it would have been over
  PRIMARY KEY (run_id, step, item)
) STRICT, WITHOUT ROWID;

-- Runs that may start as far as is known; those behind a lock are not looked at before it is free.
CREATE INDEX run_ready ON run (priority, id) WHERE state = 'queued' AND waiting_for_job IS NULL;
CREATE INDEX run_ready_by_age ON run (id) WHERE state = 'queued' AND waiting_for_job IS NULL;
CREATE INDEX run_waiting ON run (waiting_for_job) WHERE waiting_for_job IS NOT NULL;
CREATE INDEX lock_by_run ON lock (run_id);

-- Counting a long queue for every new run would be slow.
CREATE TABLE queue_length (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), n INTEGER NOT NULL) STRICT;
INSERT INTO queue_length SELECT 1, count(*) FROM run WHERE state = 'queued';
CREATE TRIGGER run_queued AFTER INSERT ON run WHEN NEW.state = 'queued'
BEGIN UPDATE queue_length SET n = n + 1; END;
CREATE TRIGGER run_left_queue AFTER UPDATE OF state ON run WHEN OLD.state = 'queued' AND NEW.state <> 'queued'
BEGIN UPDATE queue_length SET n = n - 1; END;
