-- Who the deployment is, so that an object store can say whose it is: what no row of this database knows is removed from the
-- store, so a store of another deployment must not be taken for this one's. It goes along with a dump.
CREATE TABLE deployment (
    id          uuid NOT NULL DEFAULT gen_random_uuid(),
    -- There is one.
    singleton   boolean PRIMARY KEY DEFAULT true CHECK (singleton)
);
INSERT INTO deployment DEFAULT VALUES;
GRANT SELECT ON deployment TO riacho_janitor;

-- A receipt tells when its document was deleted, so that the numbers of a day are the same after its purge. Those that are there
-- know only when they were written.
ALTER TABLE receipts ADD COLUMN deleted_at timestamptz;
CREATE INDEX receipts_deleted ON receipts (coalesce(deleted_at, created_at));
