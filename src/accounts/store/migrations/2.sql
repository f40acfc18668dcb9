-- What is good once at all servers together, and was claimed by one of them: codes and invites. No
-- other server takes it from then on. Written where several may use one database.
CREATE TABLE claims (
    what TEXT PRIMARY KEY,
    spool BIGINT NOT NULL,
    at BIGINT NOT NULL
);
CREATE INDEX claims_by_time ON claims (at);

-- Of refused logins, the newest are kept in a bounded number.
CREATE INDEX audit_refused_logins ON audit (at) WHERE action = 'login' AND outcome <> 'ok';
