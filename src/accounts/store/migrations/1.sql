-- One text for SQLite and PostgreSQL. Times are milliseconds since 1970 in UTC, days are days since
-- then, yes and no are 1 and 0. What is only looked at as a whole is JSON.

CREATE TABLE schema_version (version BIGINT NOT NULL);
INSERT INTO schema_version (version) VALUES (0);

CREATE TABLE users (
    id BIGINT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    disabled BIGINT NOT NULL,
    created BIGINT NOT NULL,
    password TEXT,
    totp_secret BYTEA,
    totp_last_step BIGINT NOT NULL,
    bounds TEXT NOT NULL,
    acl TEXT NOT NULL,
    reserved_ipv4 TEXT,
    reserved_ipv6 TEXT
);

CREATE TABLE recovery_codes (
    user_id BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    hash BYTEA NOT NULL,
    PRIMARY KEY (user_id, hash)
);

CREATE TABLE groups (
    name TEXT PRIMARY KEY,
    bounds TEXT NOT NULL,
    acl TEXT NOT NULL
);

CREATE TABLE members (
    group_name TEXT NOT NULL REFERENCES groups (name) ON DELETE CASCADE,
    user_id BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    PRIMARY KEY (group_name, user_id)
);
CREATE INDEX members_by_user ON members (user_id);

CREATE TABLE devices (
    id BIGINT PRIMARY KEY,
    user_id BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    public_key BYTEA NOT NULL UNIQUE,
    created BIGINT NOT NULL,
    last_login BIGINT NOT NULL
);
CREATE INDEX devices_by_user ON devices (user_id);

CREATE TABLE tokens (
    id BIGINT PRIMARY KEY,
    user_id BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    hash BYTEA NOT NULL UNIQUE,
    label TEXT NOT NULL,
    scope TEXT NOT NULL,
    device_id BIGINT REFERENCES devices (id) ON DELETE CASCADE,
    created BIGINT NOT NULL,
    expires BIGINT,
    last_used BIGINT
);
CREATE INDEX tokens_by_user ON tokens (user_id);
CREATE INDEX tokens_by_device ON tokens (device_id);

-- A certificate goes on to exist when its user is gone, and must stay revoked.
CREATE TABLE certificates (
    serial TEXT PRIMARY KEY,
    user_name TEXT NOT NULL,
    fingerprint BYTEA NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    revoked BIGINT
);

CREATE TABLE leases (
    device_id BIGINT NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    server TEXT NOT NULL,
    ipv4 TEXT,
    ipv6 TEXT,
    granted BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (device_id, server)
);

-- Sessions, usage and the audit log are history: they outlive those whom they are about.
CREATE TABLE sessions (
    id BIGINT PRIMARY KEY,
    user_id BIGINT NOT NULL,
    device_id BIGINT NOT NULL,
    server TEXT NOT NULL,
    source TEXT NOT NULL,
    started BIGINT NOT NULL,
    ended BIGINT,
    end_reason TEXT,
    received_bytes BIGINT NOT NULL,
    sent_bytes BIGINT NOT NULL
);
CREATE INDEX sessions_by_start ON sessions (started);
CREATE INDEX sessions_by_user ON sessions (user_id, started);
CREATE INDEX sessions_that_last ON sessions (server) WHERE ended IS NULL;

CREATE TABLE usage (
    user_id BIGINT NOT NULL,
    server TEXT NOT NULL,
    day BIGINT NOT NULL,
    received_bytes BIGINT NOT NULL,
    sent_bytes BIGINT NOT NULL,
    PRIMARY KEY (user_id, server, day)
);
CREATE INDEX usage_by_day ON usage (day);

CREATE TABLE audit (
    id BIGINT PRIMARY KEY,
    at BIGINT NOT NULL,
    server TEXT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    source TEXT,
    outcome TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX audit_by_time ON audit (at);
CREATE INDEX audit_by_actor ON audit (actor, at);
CREATE INDEX audit_by_subject ON audit (subject, at);

-- How far the batches of each spool are stored, so that none is stored twice.
CREATE TABLE spools (
    id BIGINT PRIMARY KEY,
    server TEXT NOT NULL,
    last_sequence BIGINT NOT NULL
);

-- The newest changes in the order in which they came about, for other servers to follow. Written
-- where several may use one database.
CREATE TABLE change_log (
    position BIGINT PRIMARY KEY,
    spool BIGINT NOT NULL,
    sequence BIGINT NOT NULL,
    changes TEXT NOT NULL
);
