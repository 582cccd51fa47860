-- Results of nodes that are kept for a while, found again by a digest of all that they depend on. Whoever in the tenant asks
-- the same has them; they belong to the thread that gave them, and go with it.

create table cache (
    tenant text not null,
    key text not null,
    thread_id blob not null,
    data blob not null,
    expires_at bigint not null,
    primary key (tenant, key)
);
create index cache_of_thread on cache (tenant, thread_id);
create index cache_over on cache (expires_at);
