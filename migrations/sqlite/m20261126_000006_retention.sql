-- What is kept of a run that is over: 2 all events, 1 without the pieces of messages, 0 none.

alter table run add column kept bigint not null default 2;
-- The checkpoints of its thread that are as old as it were looked at.
alter table run add column swept boolean not null default false;
create index run_kept on run (kept, finished_at) where finished_at is not null and kept > 0;
create index run_unswept on run (finished_at) where finished_at is not null and not swept;
