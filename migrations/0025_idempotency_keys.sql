-- Responses by Idempotency-Key, so that a retry creates nothing twice; removed after a day.
create table idempotency_keys (
    -- keyed hash of the client's key, which may be a file name
    key_hash text primary key check (length(key_hash) = 32),
    -- identifies the request: path, media type and body; null while the request is handled, and after it was interrupted
    request_sha256 text check (length(request_sha256) = 64),
    status integer check (status between 200 and 299),
    headers_json text check (json_valid(headers_json)),
    -- encrypted: a response may name files and DICOM instances (service/idempotency.rs)
    sealed_body blob,
    created_at text not null
) strict;
create index idempotency_keys_by_time on idempotency_keys (created_at);
