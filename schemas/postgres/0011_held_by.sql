-- Why a tenant is held: `tenant`, its own cap; `total`, that of all tenants together; `waiting`, others of its documents
-- wait already.
ALTER TABLE tenants ADD COLUMN held_by text CHECK (held_by IN ('tenant', 'total', 'waiting'));
