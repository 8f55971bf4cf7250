-- The controller's epoch fences every write; locks need none of their own.
ALTER TABLE lock DROP COLUMN epoch;
DROP TABLE lock_epoch;
