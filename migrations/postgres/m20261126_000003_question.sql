-- Questions to people. The table that was here before has never held a row.

drop table interrupt;
create table interrupt (
    tenant       text        not null,
    interrupt_id text        not null,
    thread_id    uuid        not null,
    run_id       uuid        not null,
    -- Whoever has the role `agent` may answer; else only the owner of the thread.
    agent        boolean     not null,
    data         bytea       not null,
    answer       bytea,
    answered_by  text,
    answered_at  timestamptz,
    expires_at   timestamptz,
    created_at   timestamptz not null default clock_timestamp(),
    -- Its answer was taken, or nobody needs one any more. With the end of its run a question is over anyway.
    closed_at    timestamptz,
    primary key (tenant, interrupt_id)
);
create index interrupt_of_thread on interrupt (tenant, thread_id);
create index interrupt_of_run on interrupt (tenant, run_id);
create index interrupt_for_agents on interrupt (tenant, created_at)
    where agent and answer is null and closed_at is null;

-- When a run that waits for a person goes on without an answer.
alter table run add column wake_at timestamptz;
create index run_waking on run (wake_at) where state = 'interrupted' and wake_at is not null;
