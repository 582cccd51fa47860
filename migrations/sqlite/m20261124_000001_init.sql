-- The tables of graphloom on SQLite: those of Postgres, with times as microseconds since 1970.
--
-- Every table leads its keys with `tenant`, so that a tenant can move to a shard of its own. States are bytes: jsonb
-- refuses a NUL character, and one such character from a user or a model would end a run for ever. There are no
-- foreign keys: each hot insert would lock and look up its parent, and `delete_thread` removes the rows in an order
-- that leaves none behind.

create table thread (
    tenant text not null,
    user_id text not null,
    session_id text not null,
    thread_id blob not null,
    head blob,
    graph text not null,
    -- Counts accepted runs. An accept that waited for another one sees by it that it looked too early.
    accepted bigint not null default 0,
    created_at bigint not null default (cast(unixepoch('subsec') * 1000000 as integer)),
    updated_at bigint not null default (cast(unixepoch('subsec') * 1000000 as integer)),
    primary key (tenant, user_id, session_id),
    unique (tenant, thread_id)
);
create index thread_recent on thread (tenant, user_id, updated_at, thread_id);

create table run (
    tenant text not null,
    run_id blob not null,
    thread_id blob not null,
    user_id text not null,
    session_id text not null,
    ord bigint not null unique,
    graph text not null,
    hash text not null,
    min_engine bigint not null default 1,
    state text not null check (state in ('queued', 'running', 'interrupted', 'completed', 'failed', 'cancelled',
                                      'rolled_back', 'dead')),
    fence bigint not null default 0,
    step bigint not null default 0,
    crashes bigint not null default 0,
    handoffs bigint not null default 0,
    cancel_requested boolean not null default false,
    owner text,
    boot blob,
    lease_until bigint,
    available_at bigint not null default (cast(unixepoch('subsec') * 1000000 as integer)),
    input blob not null,
    result blob,
    created_at bigint not null default (cast(unixepoch('subsec') * 1000000 as integer)),
    finished_at bigint,
    primary key (tenant, run_id)
);
-- The lock of a thread: whatever the code believes, two runs never hold one thread.
create unique index run_active on run (tenant, thread_id) where state in ('running', 'interrupted');
create index run_waiting on run (tenant, thread_id, ord) where state = 'queued';
-- `lease_until` stays out of every index: each superstep moves it, and the row must be updated in place.
create index run_owned on run (owner) where state = 'running';
create index run_of_thread on run (tenant, thread_id, ord);

create table checkpoint (
    tenant text not null,
    thread_id blob not null,
    checkpoint_id blob not null,
    parent blob,
    run_id blob,
    step bigint not null,
    source text not null,
    format bigint not null default 1,
    delta blob not null,
    snapshot blob,
    frontier blob not null,
    created_at bigint not null,
    primary key (tenant, thread_id, checkpoint_id)
);

-- One row for each batch of events.
create table event (
    tenant text not null,
    run_id blob not null,
    fence bigint not null,
    first_n bigint not null,
    last_n bigint not null,
    data blob not null,
    created_at bigint not null default (cast(unixepoch('subsec') * 1000000 as integer)),
    primary key (tenant, run_id, fence, first_n)
);

create table pending_write (
    tenant text not null,
    run_id blob not null,
    step bigint not null,
    task_id text not null,
    data blob not null,
    created_at bigint not null default (cast(unixepoch('subsec') * 1000000 as integer)),
    primary key (tenant, run_id, step, task_id)
);

create table interrupt (
    tenant text not null,
    interrupt_id blob not null,
    thread_id blob not null,
    run_id blob not null,
    task_id text not null,
    question blob not null,
    answer blob,
    answered_by text,
    answered_at bigint,
    expires_at bigint,
    created_at bigint not null default (cast(unixepoch('subsec') * 1000000 as integer)),
    primary key (tenant, interrupt_id)
);
create index interrupt_of_thread on interrupt (tenant, thread_id);

-- Written before the call of a node whose effect must not happen twice.
create table intent (
    tenant text not null,
    run_id blob not null,
    task_id text not null,
    attempt bigint not null,
    fence bigint not null,
    created_at bigint not null default (cast(unixepoch('subsec') * 1000000 as integer)),
    primary key (tenant, run_id, task_id)
);

create table outbox (
    tenant text not null,
    outbox_id blob not null,
    run_id blob not null,
    target text not null,
    data blob not null,
    attempts bigint not null default 0,
    available_at bigint not null default (cast(unixepoch('subsec') * 1000000 as integer)),
    created_at bigint not null default (cast(unixepoch('subsec') * 1000000 as integer)),
    primary key (tenant, outbox_id)
);
create index outbox_of_run on outbox (tenant, run_id);

create table idempotency (
    tenant text not null,
    user_id text not null,
    route text not null,
    key text not null,
    body_hash text not null,
    run_id blob not null,
    created_at bigint not null default (cast(unixepoch('subsec') * 1000000 as integer)),
    primary key (tenant, user_id, route, key)
);
create index idempotency_age on idempotency (created_at);

-- Large values by content. Addressed through their thread, so that a hash alone opens nothing and a deleted thread
-- takes its values along.
create table blob (
    tenant text not null,
    thread_id blob not null,
    hash text not null,
    data blob not null,
    created_at bigint not null default (cast(unixepoch('subsec') * 1000000 as integer)),
    primary key (tenant, thread_id, hash)
);

-- The tenant '' is the deployment.
create table graph_version (
    tenant text not null,
    hash text not null,
    graph text not null,
    body blob not null,
    created_at bigint not null default (cast(unixepoch('subsec') * 1000000 as integer)),
    primary key (tenant, hash)
);
