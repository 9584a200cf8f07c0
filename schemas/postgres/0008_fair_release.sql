-- Fair release. `held` is the janitor's word to the gateways: the tenant has as much in flight as it may, or
-- something that waits already, so what comes next waits in line. `weight` is its share where several tenants wait.
ALTER TABLE tenants
    ADD COLUMN held boolean NOT NULL DEFAULT false,
    ADD COLUMN weight integer NOT NULL DEFAULT 1 CHECK (weight BETWEEN 1 AND 100);
