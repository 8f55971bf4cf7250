-- Operators' certificates. `operator.certificate_serial` is the one in use; a renewed one is pending
-- until its holder first shows it, so that a renewal that is interrupted locks nobody out.
CREATE TABLE operator_certificate (
  serial         TEXT PRIMARY KEY,
  operator       TEXT NOT NULL REFERENCES operator (name),
  issued_ms      INTEGER NOT NULL,
  not_after_ms   INTEGER NOT NULL,
  pending        INTEGER NOT NULL
) STRICT;
CREATE INDEX operator_certificate_by_operator ON operator_certificate (operator);

-- Who let whom in, and out again. Never changed.
CREATE TABLE operator_event (
  id             INTEGER PRIMARY KEY,
  at_ms          INTEGER NOT NULL,
  operator       TEXT NOT NULL,
  event          TEXT NOT NULL CHECK (event IN ('added', 'replaced', 'renewed', 'revoked')),
  role           TEXT NOT NULL,
  by_operator    TEXT NOT NULL
) STRICT;
CREATE INDEX operator_event_by_operator ON operator_event (operator, id);
