-- The tables of graphloom on Postgres.
--
-- Every table leads its keys with `tenant`, so that a tenant can move to a shard of its own. States are bytes: jsonb
-- refuses a NUL character, and one such character from a user or a model would end a run for ever. There are no
-- foreign keys: each hot insert would lock and look up its parent, and `delete_thread` removes the rows in an order
-- that leaves none behind.

create table thread (
    tenant     text        not null,
    user_id    text        not null,
    session_id text        not null,
    thread_id  uuid        not null,
    head       uuid,
    graph      text        not null,
    -- Counts accepted runs. An accept that waited for another one sees by it that it looked too early.
    accepted   bigint      not null default 0,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (tenant, user_id, session_id),
    unique (tenant, thread_id)
);
create index thread_recent on thread (tenant, user_id, updated_at, thread_id);

create table run (
    tenant           text        not null,
    run_id           uuid        not null,
    thread_id        uuid        not null,
    user_id          text        not null,
    session_id       text        not null,
    ord              bigint      not null generated always as identity,
    graph            text        not null,
    hash             text        not null,
    min_engine       bigint      not null default 1,
    state            text        not null check (state in ('queued', 'running', 'interrupted', 'completed', 'failed',
                                                           'cancelled', 'rolled_back', 'dead')),
    fence            bigint      not null default 0,
    step             bigint      not null default 0,
    crashes          bigint      not null default 0,
    handoffs         bigint      not null default 0,
    cancel_requested boolean     not null default false,
    owner            text,
    boot             uuid,
    lease_until      timestamptz,
    available_at     timestamptz not null default now(),
    input            bytea       not null,
    result           bytea,
    created_at       timestamptz not null default now(),
    finished_at      timestamptz,
    primary key (tenant, run_id)
);
-- The lock of a thread: whatever the code believes, two runs never hold one thread.
create unique index run_active on run (tenant, thread_id) where state in ('running', 'interrupted');
create index run_waiting on run (tenant, thread_id, ord) where state = 'queued';
-- `lease_until` stays out of every index: each superstep moves it, and the row must be updated in place.
create index run_owned on run (owner) where state = 'running';
create index run_of_thread on run (tenant, thread_id, ord);

create table checkpoint (
    tenant        text        not null,
    thread_id     uuid        not null,
    checkpoint_id uuid        not null,
    parent        uuid,
    run_id        uuid,
    step          bigint      not null,
    source        text        not null,
    format        bigint      not null default 1,
    delta         bytea       not null,
    snapshot      bytea,
    frontier      bytea       not null,
    created_at    timestamptz not null,
    primary key (tenant, thread_id, checkpoint_id)
);

-- One row for each batch of events.
create table event (
    tenant     text        not null,
    run_id     uuid        not null,
    fence      bigint      not null,
    first_n    bigint      not null,
    last_n     bigint      not null,
    data       bytea       not null,
    created_at timestamptz not null default now(),
    primary key (tenant, run_id, fence, first_n)
);

create table pending_write (
    tenant     text        not null,
    run_id     uuid        not null,
    step       bigint      not null,
    task_id    text        not null,
    data       bytea       not null,
    created_at timestamptz not null default now(),
    primary key (tenant, run_id, step, task_id)
);

create table interrupt (
    tenant       text        not null,
    interrupt_id uuid        not null,
    thread_id    uuid        not null,
    run_id       uuid        not null,
    task_id      text        not null,
    question     bytea       not null,
    answer       bytea,
    answered_by  text,
    answered_at  timestamptz,
    expires_at   timestamptz,
    created_at   timestamptz not null default now(),
    primary key (tenant, interrupt_id)
);
create index interrupt_of_thread on interrupt (tenant, thread_id);

-- Written before the call of a node whose effect must not happen twice.
create table intent (
    tenant     text        not null,
    run_id     uuid        not null,
    task_id    text        not null,
    attempt    bigint      not null,
    fence      bigint      not null,
    created_at timestamptz not null default now(),
    primary key (tenant, run_id, task_id)
);

create table outbox (
    tenant       text        not null,
    outbox_id    uuid        not null,
    run_id       uuid        not null,
    target       text        not null,
    data         bytea       not null,
    attempts     bigint      not null default 0,
    available_at timestamptz not null default now(),
    created_at   timestamptz not null default now(),
    primary key (tenant, outbox_id)
);
create index outbox_of_run on outbox (tenant, run_id);

create table idempotency (
    tenant     text        not null,
    user_id    text        not null,
    route      text        not null,
    key        text        not null,
    body_hash  text        not null,
    run_id     uuid        not null,
    created_at timestamptz not null default now(),
    primary key (tenant, user_id, route, key)
);
create index idempotency_age on idempotency (created_at);

-- Large values by content. Addressed through their thread, so that a hash alone opens nothing and a deleted thread
-- takes its values along.
create table blob (
    tenant     text        not null,
    thread_id  uuid        not null,
    hash       text        not null,
    data       bytea       not null,
    created_at timestamptz not null default now(),
    primary key (tenant, thread_id, hash)
);

-- The tenant '' is the deployment.
create table graph_version (
    tenant     text        not null,
    hash       text        not null,
    graph      text        not null,
    body       bytea       not null,
    created_at timestamptz not null default now(),
    primary key (tenant, hash)
);
