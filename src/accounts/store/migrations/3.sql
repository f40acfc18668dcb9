-- What users of the proxy have moved, by the host that they asked for. History, as usage is.
CREATE TABLE destinations (
    user_id BIGINT NOT NULL,
    server TEXT NOT NULL,
    day BIGINT NOT NULL,
    destination TEXT NOT NULL,
    connections BIGINT NOT NULL,
    received_bytes BIGINT NOT NULL,
    sent_bytes BIGINT NOT NULL,
    PRIMARY KEY (user_id, server, day, destination)
);
CREATE INDEX destinations_by_day ON destinations (day);
