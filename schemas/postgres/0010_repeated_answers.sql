-- A request that is repeated with its Idempotency-Key gets the answer that it got: also that its bytes were known.
ALTER TABLE idempotency_keys ADD COLUMN duplicate boolean NOT NULL DEFAULT false;
