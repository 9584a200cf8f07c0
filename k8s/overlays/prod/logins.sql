-- The logins of this overlay, made once by an administrator in the database `riacho`, before the first migration. Passwords
-- are set with \password, so that they are in no file. Roles and walls: docs/adr/0007-row-level-security-and-roles.md.
CREATE ROLE riacho_service NOLOGIN;
CREATE ROLE riacho_janitor NOLOGIN;
CREATE ROLE riacho_search NOLOGIN;

-- Owns the tables, migrates, builds vector indexes, and sees no tenant's rows.
CREATE ROLE riacho_owner LOGIN;
GRANT riacho_service, riacho_janitor, riacho_search TO riacho_owner WITH INHERIT FALSE, SET TRUE;
ALTER DATABASE riacho OWNER TO riacho_owner;

-- Gateways and stages: one tenant at a time.
CREATE ROLE riacho_gateway LOGIN;
GRANT riacho_service TO riacho_gateway WITH INHERIT FALSE, SET TRUE;

-- Janitors: tasks over all tenants.
CREATE ROLE riacho_tasks LOGIN;
GRANT riacho_janitor TO riacho_tasks WITH INHERIT FALSE, SET TRUE;

-- pgvector is no trusted extension, so the owner could not create it.
CREATE EXTENSION IF NOT EXISTS vector;
